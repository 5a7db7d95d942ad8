"""``python -m shared_numpy``: the installation of an environment, and its state.

Exit codes: 0 done (``status``: the standard imports find what they should), 1 not
done or not so, with the reason on standard error, 2 a usage error.
"""

import argparse
import json
import os
import platform
import subprocess
import sys

from . import _finder, _pth

_DESCRIPTION = """\
Makes `from multiprocessing import shared_memory` work in this environment, for every
program and without a change to it. Python 3.6 and 3.7 lack that module; on newer
versions nothing is changed unless --replace is given, which puts the modules of
shared_numpy in the place of the standard library's.
"""

_EPILOG = """\
It is one small file in site-packages, which `uninstall` removes again. For a single
program, `import shared_numpy; shared_numpy.install()` at its start does the same.
"""

# Asked in a new interpreter, whose imports are those of any program here.
_QUESTION = """\
try:
    import multiprocessing.shared_memory as m
except ImportError:
    print("missing")
else:
    print(m.__name__)
"""


def main(arguments=None):
    """Runs one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (_pth.Refused, OSError) as reason:
        print("shared_numpy: " + str(reason), file=sys.stderr)
        return 1


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m shared_numpy", description=_DESCRIPTION, epilog=_EPILOG)
    commands = parser.add_subparsers(metavar="command", dest="command")
    # `required=` of add_subparsers came with 3.7.
    commands.required = True
    command = commands.add_parser(
        "install", help="make the standard import work in this environment")
    command.add_argument(
        "--replace", action="store_true",
        help="on Python 3.8 and newer: use shared_numpy's modules in the place of the "
             "standard library's")
    command.set_defaults(run=_install)
    command = commands.add_parser("uninstall", help="take it back")
    command.set_defaults(run=_uninstall)
    command = commands.add_parser(
        "status", help="what is installed here, and whether it works")
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=_status)
    return parser


def _install(options):
    if not _finder.aliases(options.replace):
        path, present = _pth.find()
        if present is not None:
            print("{} replaces the standard modules; `uninstall` removes it.".format(path))
        else:
            print("Python {} has multiprocessing.shared_memory: nothing to do. (--replace "
                  "puts shared_numpy's in its place.)".format(platform.python_version()))
        return 0
    path, changed = _pth.install(options.replace)
    print("{}: {}".format("installed" if changed else "already installed", path))
    return 0


def _uninstall(options):
    path = _pth.uninstall()
    print("nothing is installed here" if path is None else "removed: " + path)
    return 0


def _status(options):
    state = status()
    if options.json:
        print(json.dumps(state, indent=2, sort_keys=True))
    else:
        _print_status(state)
    return 0 if state["works"] else 1


def status():
    """What is installed in this environment, as a dictionary of plain values."""
    path, data = _pth.find()
    unchanged = data is not None and _pth.is_ours(data)
    mode = None
    if unchanged:
        mode = "replace" if _pth.replaces(data) else "backport"
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", _QUESTION], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    module = process.communicate()[0].decode("utf-8", "replace").strip() or "missing"
    if mode is None:
        works = data is None and module != "missing"
    else:
        works = module == "shared_numpy.shared_memory"
    state = {
        "interpreter": sys.executable,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "package": os.path.dirname(os.path.abspath(__file__)),
        "file": path,
        "file_unchanged": unchanged if data is not None else None,
        "mode": mode,
        "shared_memory": module,
        "works": works,
    }
    state.update(_tracker_status())
    return state


def _tracker_status():
    try:
        from . import _core, _tracker
    except ImportError as error:
        return {"version": None, "error": str(error), "tracker": None,
                "tracker_runs": None, "tracker_problem": None}
    return {"version": _core.__version__, "error": None,
            "tracker": _tracker.executable(), "tracker_runs": _tracker.is_reachable(),
            "tracker_problem": _tracker.problem()}


def _print_status(state):
    if state["file"] is None:
        installed = "no"
    elif state["mode"] is None:
        installed = "{}, which is not as `install` wrote it".format(state["file"])
    else:
        installed = "{} ({})".format(state["file"], state["mode"])
    found = {"missing": "cannot be imported",
             "shared_numpy.shared_memory": "shared_numpy's"}
    tracker = state["tracker"] or "not found"
    if state["tracker_problem"]:
        tracker += " (cannot be started: {})".format(state["tracker_problem"])
    lines = [
        ("interpreter", "{} ({} {})".format(
            state["interpreter"], state["implementation"], state["python"])),
        ("package", "{} {}".format(state["package"], state["version"] or (
            "(broken: {})".format(state["error"])))),
        ("installed", installed),
        ("multiprocessing.shared_memory",
         found.get(state["shared_memory"], "the standard library's")),
        ("tracker", tracker),
        ("tracker running", "yes, one of a program above this one"
         if state["tracker_runs"] else "no (it starts on first need)"),
    ]
    width = max(len(label) for label, _ in lines)
    for label, value in lines:
        print("{:{}}  {}".format(label, width, value))


if __name__ == "__main__":
    sys.exit(main())
