#!/usr/bin/env python3
"""All checks that need no test run (``make lint``; the environment ``.venvs/lint`` is made before).

What this file guarantees: every check runs even when an earlier one failed, each is named with its result, and the exit status is
0 only if all passed. Checked are: rustfmt; clippy on everything, warnings being errors; ruff; mypy on the package (its public
modules strictly) and on the typing test; stubtest: that each stub says what its module, or the extension, has; that shipped
files, scripts and tests are 3.6 Python, by the oldest CPython found; and that no text file names a machine's directories.
"""
import glob
import os
import re
import subprocess
import sys
import time

import interpreters

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = os.path.join(ROOT, ".venvs", "lint", "bin", "python")
# Directories of one person's machine have no place in the repository.
MACHINE_PATH = re.compile(r"/(?:root|home/\w+|Users/\w+)/[\w.]")


def tracked(*patterns):
    """Files in the repository's index that match, as paths; without git: files in the tree."""
    try:
        listed = subprocess.check_output(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"] + list(patterns),
            cwd=ROOT, stderr=subprocess.DEVNULL)
        names = [name for name in listed.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [os.path.relpath(path, ROOT) for pattern in patterns
                 for path in glob.glob(os.path.join(ROOT, "**", pattern), recursive=True)]
        names = [name for name in names if not name.startswith(("build", "target", "."))]
    return sorted(name for name in set(names) if os.path.isfile(os.path.join(ROOT, name)))


def run(name, command, **options):
    """Run one check, show its output only when it fails; true when it passed."""
    began = time.monotonic()
    env = dict(os.environ, PYO3_NO_PYTHON="1", **options)
    done = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = done.stdout.decode("utf-8", "replace").rstrip()
    print("{:<28} {} ({:.0f} s)".format(name, "FAILED" if done.returncode else "ok", time.monotonic() - began), flush=True)
    if done.returncode:
        print("    " + text.replace("\n", "\n    "), flush=True)
    return done.returncode == 0


def no_machine_paths():
    """No text file of the repository names somebody's directories."""
    bad = []
    for name in tracked("*"):
        with open(os.path.join(ROOT, name), "rb") as stream:
            data = stream.read()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if MACHINE_PATH.search(line):
                bad.append("{}:{}: {}".format(name, number, line.strip()))
    print("{:<28} {}".format("no machine paths", "FAILED" if bad else "ok"))
    for line in bad:
        print("    " + line)
    return not bad


def main():
    """Exit status 1 when a check failed."""
    taken, _left_out = interpreters.discover()
    python_files = tracked("*.py", "*.pyi")
    # Examples and benchmarks run on the oldest CPython too.
    good = [
        run("cargo fmt", ["cargo", "fmt", "--all", "--check"]),
        run("cargo fmt of fuzz", ["cargo", "fmt", "--manifest-path", os.path.join("fuzz", "Cargo.toml"), "--check"]),
        run("cargo clippy", ["cargo", "clippy", "-q", "--locked", "--workspace", "--all-targets",
                             "--features", "shared-numpy-core/fault", "--", "-D", "warnings"]),
        run("ruff", [PYTHON, "-m", "ruff", "check", "--no-cache", "-q", "."]),
        run("mypy", [PYTHON, "-m", "mypy"]),
        run("3.6 syntax", [taken[0].path, os.path.join("ci", "check_syntax.py")] + python_files),
        no_machine_paths(),
    ]
    if run("build for stubtest", ["sh", os.path.join("ci", "develop.sh")]):
        good.append(run("stubtest", [PYTHON, "-m", "mypy.stubtest", "shared_numpy", "--concise",
                         "--mypy-config-file", "pyproject.toml"],
                        PYTHONPATH=os.path.join(ROOT, "python"), MYPYPATH=os.path.join(ROOT, "python")))
    else:
        good.append(False)
    print("lint: {}".format("ok" if all(good) else "FAILED"))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
