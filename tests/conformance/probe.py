"""Whose is what the tests test? Asked in the parent, in a child, and in an isolated interpreter.

`identity()` is imported by the worker; run as a script with a suite's name and a start method it prints one JSON line
with what the script itself, a child of that start method and, of what is installed, a `python -I` see.
"""
import importlib
import json
import os
import subprocess
import sys

import selection

# Module and the class in it that tells whose it is.
INSTALLED = (
    ("multiprocessing.shared_memory", "SharedMemory"),
    ("multiprocessing.shared_memory", "ShareableList"),
    ("multiprocessing.resource_tracker", "ResourceTracker"),
    ("multiprocessing.managers", "SharedMemoryManager"),
)
# What makes an object that is put in the place of another, and its arguments.
SUBSTITUTED = (
    ("Lock", ()), ("RLock", ()), ("Semaphore", ()), ("BoundedSemaphore", ()), ("Condition", ()), ("Event", ()),
    ("Barrier", (1,)), ("Queue", ()), ("JoinableQueue", ()), ("SimpleQueue", ()),
)
TEST_MODULE = "test._test_multiprocessing"


def identity(suite):
    """{subject: real path of the file that defines its class, or why it cannot be had}, and the package's directory."""
    seen = {subject: _where(get_class) for subject, get_class in _subjects(suite)}
    try:
        seen["package"] = os.path.dirname(os.path.realpath(importlib.import_module("shared_numpy").__file__))
    except ImportError:
        seen["package"] = None
    seen["prefix"] = os.path.realpath(sys.prefix)
    return seen


def _subjects(suite):
    """(name, function that returns the class) for each subject of the suite."""
    if not suite.substitute:
        for module_name, name in INSTALLED:
            yield module_name + "." + name, lambda m=module_name, n=name: getattr(importlib.import_module(m), n)
        return
    import multiprocessing
    makers = {"multiprocessing": multiprocessing}
    for method in selection.START_METHODS:
        makers["the context of " + method] = multiprocessing.get_context(method)
    if TEST_MODULE in sys.modules:
        # What the tests call `self.Lock` and so on; it has no SimpleQueue.
        makers["the tests"] = sys.modules[TEST_MODULE].ProcessesMixin
    for who, maker in makers.items():
        for name, arguments in SUBSTITUTED:
            if who != "the tests" or hasattr(maker, name):
                yield "{} of {}".format(name, who), lambda m=maker, n=name, a=arguments: type(getattr(m, n)(*a))


def _where(get_class):
    try:
        return os.path.realpath(sys.modules[get_class().__module__].__file__)
    except Exception as error:
        return "{}: {}".format(type(error).__name__, error)


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


def _report(connection, suite_name):
    connection.send(identity(selection.SUITES[suite_name]))
    connection.close()


def main(suite_name, start_method):
    """Print the answers. The child's comes through a pipe, so that nothing of ours is needed to bring it."""
    import multiprocessing
    suite = selection.SUITES[suite_name]
    context = multiprocessing.get_context(start_method)
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(writer, suite_name))
    child.start()
    writer.close()
    answers = {"parent": identity(suite), "{} child".format(start_method): reader.recv()}
    child.join()
    if not suite.substitute:
        # What stands on PYTHONPATH is not for an isolated interpreter, what is installed is.
        code = ("import sys; sys.path.append({!r}); import probe, selection, json; "
                "print(json.dumps(probe.identity(selection.SUITES[{!r}])))").format(
            os.path.dirname(os.path.abspath(__file__)), suite_name)
        isolated = subprocess.run([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE, check=True)
        answers["isolated interpreter"] = json.loads(isolated.stdout.decode("utf-8"))
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
