#!/usr/bin/env python3
"""Find the CPythons of this machine that the wheel is for.

What this file guarantees:

* each line it gives is a CPython >= 3.6 of this machine's architecture, linked with glibc, not free-threaded, that was
  run just now and can make a virtual environment (``venv`` and ``ensurepip`` import);
* one per minor version, the most complete one: with CPython's own ``test`` package and with headers rather than without;
* whatever was looked at and not taken is listed with its reason (``--left-out``, and always in the table);
* standard library only, and 3.6 syntax: the oldest interpreter can run it.

Looked at, in this order: ``$TEST_PYTHONS`` (executables, separated by ``:``), pyenv, uv, asdf, mise,
``/opt/python`` of the manylinux images, and ``python3*`` on ``PATH`` and in the usual ``bin`` directories.
"""
import argparse
import concurrent.futures
import glob
import json
import os
import platform
import subprocess
import sys

MINIMUM = (3, 6)
PROBE_TIMEOUT_S = 30

# Runs in the candidate (any Python 3, possibly a very incomplete one) and prints one JSON line.
PROBE = r"""
import sys
if sys.version_info < (3,):
    sys.stdout.write('{"version": [2]}'); sys.exit(0)
import importlib.util, json, os, platform, struct, sysconfig

def have(name):
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:
        return False

def works(name):
    try:
        __import__(name)
        return True
    except Exception:
        return False

try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (ValueError, OSError, AttributeError):
    libc = None
print(json.dumps({
    "implementation": platform.python_implementation(),
    "version": list(sys.version_info),
    "executable": sys.executable,
    "prefix": sys.prefix,
    "base_prefix": sys.base_prefix,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "debug": bool(sysconfig.get_config_var("Py_DEBUG")),
    "bits": struct.calcsize("P") * 8,
    "machine": platform.machine(),
    "libc": libc,
    "missing": [m for m in ("venv", "ensurepip", "ssl", "zlib", "_multiprocessing") if not works(m)],
    "ctypes": works("ctypes"),
    "tests": have("test._test_multiprocessing"),
    "headers": os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")),
}))
"""


class Interpreter:
    """One executable that was run: what it is, and why it is left out if it is."""

    def __init__(self, facts):
        self.facts = facts
        self.path = facts["executable"]
        self.version = tuple(facts["version"])
        self.reason = self._objection()

    @property
    def minor(self):
        """``(3, 11)``."""
        return self.version[:2]

    @property
    def tag(self):
        """``cp311``: the name of its virtual environment and of its row in tables."""
        return "cp{}{}".format(*self.minor)

    @property
    def version_text(self):
        """``3.11.7``, or ``3.15.0b1`` for a pre-release."""
        level = {"alpha": "a", "beta": "b", "candidate": "rc"}.get(self.version[3])
        return "{}.{}.{}".format(*self.version[:3]) + ("{}{}".format(level, self.version[4]) if level else "")

    @property
    def notes(self):
        """What it lacks without being useless."""
        lacks = [name for name in ("tests", "headers", "ctypes") if not self.facts[name]]
        return "without " + ", ".join(lacks) if lacks else ""

    def _objection(self):
        facts = self.facts
        if facts["implementation"] != "CPython":
            return facts["implementation"] + " has no stable ABI of CPython"
        if self.minor < MINIMUM:
            return "older than {}.{}".format(*MINIMUM)
        if facts["free_threaded"]:
            return "free-threaded build: the stable ABI does not load there"
        if facts["bits"] != 64 or facts["machine"] != platform.machine():
            return "built for {}-bit {}".format(facts["bits"], facts["machine"])
        if not facts["libc"] and sys.platform.startswith("linux"):
            return "not linked with glibc"
        if facts["missing"]:
            return "cannot make an environment: no " + ", ".join(facts["missing"])
        return ""

    def rank(self):
        """Larger is better among interpreters of one minor version."""
        facts = self.facts
        return (not facts["debug"], self.version[3] == "final", facts["tests"], facts["headers"], facts["ctypes"], self.version)


def _pyenv_roots():
    """Where pyenv may keep its versions, most explicit first."""
    roots = [os.environ.get("PYENV_ROOT")]
    try:
        done = subprocess.run(["pyenv", "root"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
        roots.append(done.stdout.decode("utf-8", "replace").strip())
    except (OSError, subprocess.SubprocessError):
        pass
    roots.append(os.path.expanduser("~/.pyenv"))
    return [root for root in roots if root]


def candidates():
    """Paths of executables worth running; each once, resolved names compared."""
    home_data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    patterns = [root + "/versions/*/bin" for root in _pyenv_roots()]
    patterns += [
        (os.environ.get("UV_PYTHON_INSTALL_DIR") or home_data + "/uv/python") + "/*/bin",
        os.path.expanduser("~/.asdf/installs/python/*/bin"),
        home_data + "/mise/installs/python/*/bin",
        "/opt/python/*/bin",
    ]
    directories = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
    directories += [path for path in os.environ.get("PATH", "").split(os.pathsep) if path]
    directories += ["/usr/local/bin", "/usr/bin", os.path.expanduser("~/.local/bin")]
    given = [path for path in os.environ.get("TEST_PYTHONS", "").split(os.pathsep) if path]
    seen, found = set(), []
    for path in given + [name for folder in directories for name in sorted(glob.glob(folder + "/python3*"))]:
        tail = os.path.basename(path)[len("python3"):]
        plain = not tail or (tail.startswith(".") and tail[1:].rstrip("td").isdigit())
        # pyenv's shims are shell scripts that stand for the same versions that were found above.
        if (plain or path in given) and os.path.isfile(path) and os.access(path, os.X_OK) and "/shims/" not in path:
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                found.append(path)
    return found


def probe(path):
    """Run one candidate. ``(Interpreter or None, why not)``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [path, "-I", "-c", PROBE],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            timeout=PROBE_TIMEOUT_S, env=environment, cwd="/",
        )
    except (OSError, subprocess.SubprocessError) as error:
        return None, "does not run: {}".format(error)
    try:
        facts = json.loads(done.stdout.decode("utf-8").splitlines()[-1])
    except (ValueError, IndexError):
        return None, "does not run (exit status {})".format(done.returncode)
    if facts["version"][0] < 3:
        return None, "Python 2"
    if facts["prefix"] != facts["base_prefix"]:
        return None, "a virtual environment of {}".format(facts["base_prefix"])
    return Interpreter(facts), ""


def discover():
    """``(taken, left_out)``: interpreters by rising version, and ``[(path, version or "", reason)]``."""
    paths = candidates()
    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        results = list(pool.map(probe, paths))
    left_out, best = [], {}
    for path, (interpreter, reason) in zip(paths, results):
        if interpreter is None:
            left_out.append((path, "", reason))
        elif interpreter.reason:
            left_out.append((path, interpreter.version_text, interpreter.reason))
        else:
            rival = best.get(interpreter.minor)
            if rival is not None and rival.rank() >= interpreter.rank():
                rival, interpreter = interpreter, rival
            if rival is not None:
                left_out.append((rival.path, rival.version_text, "{} is used for {}.{}".format(
                    interpreter.path, *interpreter.minor)))
            best[interpreter.minor] = interpreter
    return [best[minor] for minor in sorted(best)], left_out


def main():
    """Command line; exit status 1 when nothing suitable was found."""
    parser = argparse.ArgumentParser(description="Find the CPythons that the wheel is for.")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--lines", action="store_true", help="one `tag path` a line")
    shown.add_argument("--json", action="store_true", help="everything known, as JSON")
    shown.add_argument("--newest", action="store_true", help="the path of the newest release")
    shown.add_argument("--oldest", action="store_true", help="the path of the oldest")
    shown.add_argument("--left-out", action="store_true", help="what was not taken, `path: reason`")
    options = parser.parse_args()
    taken, left_out = discover()
    if options.json:
        rows = [dict(i.facts, tag=i.tag, version_text=i.version_text, path=i.path, notes=i.notes) for i in taken]
        print(json.dumps({"interpreters": rows, "left_out": left_out}, indent=1))
    elif options.lines:
        for interpreter in taken:
            print(interpreter.tag, interpreter.path)
    elif options.left_out:
        for path, _version, reason in left_out:
            print("{}: {}".format(path, reason))
    elif taken and (options.newest or options.oldest):
        # A pre-release is tested but nothing else depends on it.
        final = [i for i in taken if i.version[3] == "final"] or taken
        print(final[-1].path if options.newest else final[0].path)
    elif taken:
        for interpreter in taken:
            print("{:6} {:9} {}  {}".format(
                interpreter.tag, interpreter.version_text, interpreter.path, interpreter.notes).rstrip())
        for path, version, reason in left_out:
            print("left out: {} {}: {}".format(path, version, reason).replace(" :", ":"))
    if not taken:
        print("no CPython >= {}.{} that can make a virtual environment was found".format(*MINIMUM), file=sys.stderr)
    return 0 if taken else 1


if __name__ == "__main__":
    sys.exit(main())
