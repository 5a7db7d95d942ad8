#!/usr/bin/env python3
"""Make the test environments ``.venvs/cp36`` ...: one for each CPython found, with the built wheel in it.

What this file guarantees: after it, each environment holds the newest NumPy and pytest that its CPython can have and
exactly the wheel in ``dist/``; a second run takes a second; one that cannot be made stops everything, with its output.
"""
import argparse
import concurrent.futures
import os
import sys
import time

import interpreters
import make_venv

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENVS = os.path.join(ROOT, ".venvs")
REQUIREMENTS = [os.path.join(ROOT, *path) for path in (("ci", "requirements-test.txt"), ("examples", "requirements.txt"))]
# Installed without what they depend on.
BARE_REQUIREMENTS = [os.path.join(ROOT, "examples", "requirements-photos.txt")]


def the_wheel():
    """The path of the one wheel in ``dist/``."""
    folder = os.path.join(ROOT, "dist")
    names = [name for name in (os.listdir(folder) if os.path.isdir(folder) else []) if name.endswith(".whl")]
    if len(names) != 1:
        raise SystemExit("expected one wheel in dist/, found {}: run `make wheel`".format(names or "none"))
    return os.path.join(folder, names[0])


def prepare(interpreter, wheel):
    """One environment; the seconds that it took, or None when it was already as it should be."""
    began = time.time()
    folder = os.path.join(VENVS, interpreter.tag)
    changed = make_venv.ensure(folder, interpreter.path, REQUIREMENTS, BARE_REQUIREMENTS)
    changed = make_venv.install_wheel(folder, wheel) or changed
    return time.time() - began if changed else None


def main():
    """Command line: all interpreters found, or those whose tags are given."""
    parser = argparse.ArgumentParser(description="Make the test environments.")
    parser.add_argument("tags", nargs="*", help="cp36 cp313 ...; all when none is given")
    options = parser.parse_args()
    taken, _left_out = interpreters.discover()
    taken = [i for i in taken if not options.tags or i.tag in options.tags]
    if not taken:
        raise SystemExit("no interpreter to make an environment of")
    wheel = the_wheel()
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        jobs = {pool.submit(prepare, interpreter, wheel): interpreter for interpreter in taken}
        failed = False
        for job in concurrent.futures.as_completed(jobs):
            try:
                seconds = job.result()
            except SystemExit as error:
                print("{}: {}".format(jobs[job].tag, error), file=sys.stderr)
                failed = True
                continue
            if seconds is not None:
                print("{}: {}, ready in {:.0f} s".format(jobs[job].tag, jobs[job].version_text, seconds), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
