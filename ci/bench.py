#!/usr/bin/env python3
"""Run the scripts in ``benchmarks/`` on 3.11 and on the newest CPython found (``make bench``), one after the other.

What this file guarantees: the installed wheel is measured, not the working tree; nothing else of ours runs at the same time.
"""
import os
import subprocess
import sys

import interpreters

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    """Exit status: that of the first run that fails."""
    taken, _left_out = interpreters.discover()
    tags = [i.tag for i in taken if i.version[3] == "final"]
    wanted = [tag for tag in ("cp311",) if tag in tags] + [tag for tag in tags[-1:] if tag != "cp311"]
    scratch = os.path.join(ROOT, "build", "bench")
    os.makedirs(scratch, exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    for tag in wanted:
        print("\n== {} ==".format(tag), flush=True)
        python = os.path.join(ROOT, ".venvs", tag, "bin", "python")
        for script in ("compare.py", "arrays.py", "queues.py", "locks.py", "latest.py"):
            command = [python, os.path.join(ROOT, "benchmarks", script)] + sys.argv[1:]
            status = subprocess.call(command, cwd=scratch, env=env)
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
