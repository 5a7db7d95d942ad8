"""Whose `multiprocessing.shared_memory` is it? Asked in the parent, in a child, and in an isolated interpreter.

`identity()` is imported by the worker; run as a script with a start method it prints one JSON line with what the script
itself, a child of that start method and a `python -I` see.
"""
import importlib
import json
import os
import subprocess
import sys

# Module and the class in it that tells whose it is.
SUBJECTS = (
    ("multiprocessing.shared_memory", "SharedMemory"),
    ("multiprocessing.shared_memory", "ShareableList"),
    ("multiprocessing.resource_tracker", "ResourceTracker"),
    ("multiprocessing.managers", "SharedMemoryManager"),
)


def identity():
    """{"module.Class": real path of the file that defines it, or why it cannot be had}, and the package's directory."""
    seen = {}
    for module_name, class_name in SUBJECTS:
        try:
            cls = getattr(importlib.import_module(module_name), class_name)
            where = os.path.realpath(sys.modules[cls.__module__].__file__)
        except Exception as error:
            where = "{}: {}".format(type(error).__name__, error)
        seen[module_name + "." + class_name] = where
    try:
        seen["package"] = os.path.dirname(os.path.realpath(importlib.import_module("shared_numpy").__file__))
    except ImportError:
        seen["package"] = None
    seen["prefix"] = os.path.realpath(sys.prefix)
    return seen


def objections(seen, ours):
    """What is wrong with one answer of `identity`: every subject must be ours (`ours` true) or none of them."""
    package = seen["package"]
    if ours and (package is None or not package.startswith(seen["prefix"] + os.sep)):
        return ["the package is not the installed one: {}".format(package)]
    wrong = []
    for subject, where in sorted(seen.items()):
        if subject in ("package", "prefix"):
            continue
        is_ours = package is not None and where.startswith(package + os.sep)
        if is_ours != ours or not os.path.isabs(where):
            wrong.append("{} comes from {}".format(subject, where))
    return wrong


def _report(connection):
    connection.send(identity())
    connection.close()


def main(start_method):
    """Print the three answers. The child's comes through a pipe, so that nothing of ours is needed to bring it."""
    import multiprocessing
    context = multiprocessing.get_context(start_method)
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(writer,))
    child.start()
    writer.close()
    answers = {"parent": identity(), "{} child".format(start_method): reader.recv()}
    child.join()
    code = "import sys; sys.path.append({!r}); import probe, json; print(json.dumps(probe.identity()))".format(
        os.path.dirname(os.path.abspath(__file__)))
    isolated = subprocess.run([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE, check=True)
    answers["isolated interpreter"] = json.loads(isolated.stdout.decode("utf-8"))
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
