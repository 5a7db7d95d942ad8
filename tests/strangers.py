"""Programs that belong to nobody's tracker: each starts its own, and it is over when that has ended too."""

import os
import subprocess
import sys
import textwrap
import time

from programs import OLD, shm_exists

# What a program says to have the standard names lead to ours.
INSTALL = "import shared_numpy; shared_numpy.install({})".format("" if OLD else "replace=True")
# What the tracker says of what is left at the end: how many, and what.
LEAKED = "resource_tracker: There appear to be {} leaked {} objects to clean up at shutdown"


def environ(**more):
    """The environment of a program that belongs to nobody's tracker."""
    found = {key: value for key, value in os.environ.items() if not key.startswith("SHARED_NUMPY")}
    found.update(more)
    return found


def start(tmp_path, program, *arguments, **options):
    """Starts a program as a file: a main module that spawned children can import."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    options.setdefault("env", environ())
    return subprocess.Popen(
        [sys.executable, str(path)] + list(arguments), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True, **options)


def run(tmp_path, program, *arguments, **options):
    """Runs a program to its end, and its tracker's: that has stderr until then."""
    process = start(tmp_path, program, *arguments, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_until_gone(*names):
    """Waits until named memory is removed."""
    deadline = time.monotonic() + 30
    while any(shm_exists(name) for name in names):
        assert time.monotonic() < deadline, "still there: {}".format(names)
        time.sleep(0.01)
