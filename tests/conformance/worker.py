"""Runs the selected tests of CPython inside the interpreter under test and writes what happened, line by line.

Guarantees:

* events are JSON lines, flushed at once, so that the caller knows which test was running when this process died;
* what is tested is the expected (`--expect ours` or `stdlib`) in this process before and after the tests, in a child of
  the start method and, what is installed, in an isolated interpreter: otherwise a "problem" event is written;
* nothing is decided here about success: outcomes are reported, `run.py` judges.

3.6 syntax. Children of spawn and forkserver import this file as `__mp_main__`: nothing happens at import.
"""
import argparse
import faulthandler
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import traceback
import unittest

import selection
from probe import identity, objections


class Events:
    """The file of JSON lines."""

    def __init__(self, path):
        self._file = open(path, "w", encoding="utf-8")
        # A forked child that ends by sys.exit would otherwise write our buffer a second time: there is none between lines.
        self._pid = os.getpid()

    def write(self, event, **fields):
        """One line; silent in forked children."""
        if os.getpid() == self._pid:
            self._file.write(json.dumps(dict(fields, event=event)) + "\n")
            self._file.flush()


def short_id(test):
    """`Class.test` without the module; CPython's factory makes `WithProcessesTestX` of `_TestX`, told as `TestX`."""
    name = ".".join(test.id().split(".")[-2:])
    return re.sub(r"^WithProcesses(?=Test)", "", name)


class Result(unittest.TestResult):
    """Reports each test once: ok, failed, error, skipped, expected failure or unexpected success."""

    def __init__(self, events, log):
        super(Result, self).__init__()
        self._events, self._log = events, log
        self._outcome = None

    def startTest(self, test):
        super(Result, self).startTest(test)
        self._outcome = ("ok", "")
        self._log.write("--- {}\n".format(short_id(test)))
        self._log.flush()
        self._events.write("start", test=short_id(test))

    def stopTest(self, test):
        super(Result, self).stopTest(test)
        outcome, text = self._outcome
        self._log.write(text + "{}\n".format(outcome))
        self._log.flush()
        self._events.write("end", test=short_id(test), outcome=outcome, text=text)
        self._outcome = None

    def _set(self, test, outcome, text):
        if self._outcome is None:
            # setUpModule, setUpClass and their like: unittest gives them no start and no stop.
            self._log.write("--- {}\n{}\n{}\n".format(test, text, outcome))
            self._events.write("problem", text="{}: {}\n{}".format(test, outcome, text))
        elif self._outcome[0] in ("ok", "skipped"):
            self._outcome = (outcome, text)
        else:
            self._outcome = (self._outcome[0], self._outcome[1] + text)

    def _describe(self, error):
        return "".join(traceback.format_exception(*error))

    def addError(self, test, err):
        self._set(test, "error", self._describe(err))

    def addFailure(self, test, err):
        self._set(test, "failed", self._describe(err))

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._set(test, "failed", "{}\n{}".format(subtest, self._describe(err)))

    def addSkip(self, test, reason):
        if self._outcome is None or self._outcome[0] == "ok":
            self._set(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        self._set(test, "expected failure", self._describe(err))

    def addUnexpectedSuccess(self, test):
        self._set(test, "unexpected success", "")


def extra_tests(suite, start_method, events):
    """Tests of `suite.extra` that this version has."""
    for since, module_name, class_name, by_method in suite.extra:
        if sys.version_info < since:
            continue
        try:
            cls = getattr(importlib.import_module(module_name), class_name)
        except Exception as error:
            events.write("problem", text="{}.{} cannot be had: {}".format(module_name, class_name, error))
            continue
        for name in by_method[start_method]:
            yield cls(name)


def selected_tests(suite, pattern, start_method, events):
    """The tests, in the order of the file; `pattern` replaces the selection (then nothing else is added)."""
    import cases
    source_file = cases._test_multiprocessing.__file__
    with open(source_file, encoding="utf-8") as source:
        text = source.read()
    events.write("file", path=source_file)
    chosen = pattern or suite.classes
    loader = unittest.TestLoader()
    tests, left_out = [], []
    for name, cls in list(vars(cases).items()):
        if not isinstance(cls, type) or not issubclass(cls, unittest.TestCase):
            continue
        # Of the variants that CPython's factory makes of a class those of threads and managers are not ours.
        if not chosen.match(re.sub(r"^WithProcesses(?=Test)", "_", name)):
            continue
        for test in loader.loadTestsFromTestCase(cls):
            reason = selection.reason_for("test", sys.version_info, start_method, short_id(test))
            if reason is None:
                tests.append(test)
            else:
                left_out.append({"test": short_id(test), "reason": reason})
    if pattern is None:
        if len(tests) < suite.fewest:
            events.write("problem", text="only {} tests were selected, of at least {}".format(len(tests), suite.fewest))
        for name in selection.overlooked(suite, text, sys.version_info, start_method):
            events.write("problem", text="class {} is about {} but not selected".format(name, suite.title))
        tests.extend(extra_tests(suite, start_method, events))
    events.write("selected", tests=[short_id(test) for test in tests], left_out=left_out)
    return unittest.TestSuite(tests)


def check_identity(suite, start_method, ours, events):
    """Ask a fresh process of this interpreter and what it starts."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.py")
    done = subprocess.run([sys.executable, script, suite.name, start_method], stdout=subprocess.PIPE)
    try:
        answers = json.loads(done.stdout.decode("utf-8"))
    except ValueError:
        events.write("problem", text="the probe of the modules under test ended with {}".format(done.returncode))
        return
    events.write("identity", answers=answers)
    for who, seen in sorted(answers.items()):
        report_objections("in the {}".format(who), seen, ours, events)


def report_objections(where, seen, ours, events):
    """One problem for all subjects that are not whose they should be."""
    wrong = objections(seen, ours)
    if wrong:
        events.write("problem", text="wrong modules {}: {}".format(where, "; ".join(wrong)))


def main():
    """Always status 0 when it got to its end; outcomes are in the events."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", required=True)
    parser.add_argument("--expect", choices=("ours", "stdlib"), required=True)
    parser.add_argument("--classes", type=re.compile)
    options = parser.parse_args()
    start_method = os.environ["CONFORMANCE_START_METHOD"]
    suite = selection.SUITES[os.environ["CONFORMANCE_SUITE"]]
    events = Events(options.events)
    # A shell that starts us in the background hands down an ignored SIGINT; one test needs the usual one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.register(signal.SIGUSR1, all_threads=True)

    ours = options.expect == "ours"
    check_identity(suite, start_method, ours, events)
    try:
        tests = selected_tests(suite, options.classes, start_method, events)
    except BaseException:
        events.write("problem", text="the tests cannot be loaded\n" + traceback.format_exc())
        raise
    report_objections("before the tests", identity(suite), ours, events)
    tests.run(Result(events, sys.stdout))
    report_objections("after the tests", identity(suite), ours, events)
    from test import support
    if getattr(support, "environment_altered", False):
        events.write("problem", text="the tests left processes or threads behind (see the log)")
    events.write("finished")


if __name__ == "__main__":
    main()
