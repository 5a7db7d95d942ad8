"""Named arrays for the tests of this folder, the files that they are, and programs that know them by name."""

import os
import subprocess
import sys
import textwrap
import time

import shared_numpy as snp
from strangers import environ


def path_of(name):
    return "/dev/shm/" + name


def program(text, *arguments, **keywords):
    """Runs another program, unrelated to this one; its output."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, os\nimport numpy as np, shared_numpy as snp\n"
         + textwrap.dedent(text)] + list(arguments),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, env=environ(),
        timeout=60, **keywords)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.strip()


def gone_soon(name):
    """Whether a name goes, which the tracker may still have to do."""
    end = time.monotonic() + 20
    while os.path.exists(path_of(name)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def make(name, shape=(2, 3), dtype="f8", **keywords):
    return snp.ndarray(shape, dtype, name=name, **keywords)
