#!/usr/bin/env python3
"""CPython's own tests of shared memory, the resource tracker, queues and locks, against the package on every CPython found.

    python tests/conformance/run.py --venv-dir .venvs --wheel dist/shared_numpy-*.whl --json build/conformance.json
    python tests/conformance/run.py --baseline          the same tests against the untouched standard library

What this file guarantees:

* the tests are those that an installed interpreter brings (of shared memory 3.6 and 3.7 run 3.8's); nothing is copied;
* a test counts as passed only if it ran to its end in the expected module; skips, crashes, time-outs, tests that the
  selection overlooks and modules that are not ours all count against the run. Exceptions: `selection.EXCEPTIONS`;
* each interpreter, start method and suite is a process of its own with a time limit; when it is over, nothing that it started
  is alive, and the run fails if something had to be ended; Ctrl-C leaves nothing either;
* the run fails if an object made meanwhile stays in /dev/shm;
* an interpreter without test files on this machine is listed as "not run", and is a failure under `--strict`.

Exit status: 0 all passed, 1 not, 2 wrong use, 130 interrupted. Standard library only, 3.6 syntax.
"""
import argparse
import glob
import json
import os
import queue
import subprocess
import sys
import threading
import time

import environments
import report
import supervise
from environments import REPOSITORY, NoTests, SetupError
from selection import START_METHODS, SUITES

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT_S = 300
# A tracker may live on for a moment after the last process that it served; a deadlocked one lives for ever.
GRACE_S = 15


class Environment:
    """One interpreter's environment, made by the first run that needs it."""

    def __init__(self, interpreter, options):
        self.interpreter = interpreter
        self._options = options
        self._lock = threading.Lock()
        self._made = None

    def get(self):
        """(Its python, a directory with NumPy or None). SetupError, the same for each run, when it cannot be made."""
        with self._lock:
            if self._made is None:
                try:
                    self._made = self._make()
                except (SetupError, OSError, subprocess.SubprocessError) as error:
                    self._made = SetupError(str(error))
            if isinstance(self._made, SetupError):
                raise self._made
            return self._made

    def _make(self):
        kind = "baseline" if self._options.baseline else "conformance"
        directory = os.path.join(self._options.venv_dir, "{}-{}".format(kind, self.interpreter.tag))
        python, said = environments.make(self.interpreter, directory, self._options.wheel)
        log = os.path.join(self._options.logs, "{}-install.log".format(self.interpreter.tag))
        with open(log, "w") as file:
            file.write(said + "\n")
        if not self._options.lend_numpy:
            return python, None
        return python, environments.lend_numpy(directory, os.path.join(self._options.numpy_from, self.interpreter.tag))


class Job:
    """One suite, run by one interpreter under one start method."""

    def __init__(self, suite, environment, start_method, options, everyone):
        self.suite, self.environment, self.start_method = suite, environment, start_method
        self.options, self._everyone = options, everyone
        self._supervisor = None
        self._lock = threading.Lock()
        self._cancelled = False

    def cancel(self):
        """End it and all that it started; may come from another thread, before or after it runs."""
        with self._lock:
            self._cancelled = True
            if self._supervisor is not None and self._supervisor.poll() is None:
                self._supervisor.terminate()

    def run(self):
        """The row of the report, or None when cancelled."""
        interpreter = self.environment.interpreter
        row = report.new_row(self.suite, interpreter, self.start_method)
        try:
            test_file, file_version = environments.test_file(self.suite, interpreter, self._everyone)
            python, numpy = self.environment.get()
        except NoTests as error:
            row["not_run"] = str(error)
            return row
        except SetupError as error:
            row["problems"].append("cannot be set up: {}".format(error))
            return row
        row["tests_of"] = ".".join(map(str, file_version))
        name = "{}-{}-{}".format(self.suite.name, interpreter.tag, self.start_method)
        base = os.path.join(self.options.logs, name)
        row["log"] = os.path.relpath(base + ".log")
        verdict = self._supervise(python, numpy, base, test_file)
        if verdict is None:
            return None
        report.fill(row, verdict, base + ".events", base + ".err", strict=not self.options.baseline)
        return row

    def _supervise(self, python, numpy, base, test_file):
        path = [HERE]
        if environments.runs_backport(self.suite, self.environment.interpreter):
            path.insert(0, os.path.join(HERE, "backport"))
        if self.suite.substitute and not self.options.baseline:
            path.insert(0, os.path.join(HERE, "substitute"))
        if self.suite.numpy and numpy is not None:
            path.append(numpy)
        env = environments.clean_environment()
        env.update(PYTHONPATH=os.pathsep.join(path), PYTHONDONTWRITEBYTECODE="1",
                   CONFORMANCE_SUITE=self.suite.name, CONFORMANCE_START_METHOD=self.start_method,
                   CONFORMANCE_TEST_FILE=test_file)
        command = [sys.executable, os.path.join(HERE, "supervise.py"), "--limit", str(self.options.limit),
                   "--grace", str(GRACE_S), "--report", base + ".report", "--log", base + ".log",
                   "--errors", base + ".err", "--",
                   python, os.path.join(HERE, "worker.py"), "--events", base + ".events",
                   "--expect", "stdlib" if self.options.baseline else "ours"]
        if self.options.classes:
            command += ["--classes", self.options.classes]
        for suffix in (".report", ".events"):
            if os.path.exists(base + suffix):
                os.unlink(base + suffix)
        with self._lock:
            if self._cancelled:
                return None
            # Its standard input is its leash: when we are gone, however that came, it ends what it holds.
            self._supervisor = subprocess.Popen(command, stdin=subprocess.PIPE, env=env)
        with self._supervisor.stdin:
            self._supervisor.wait()
        if self._cancelled:
            return None
        try:
            with open(base + ".report") as file:
                return json.load(file)
        except (OSError, ValueError):
            raise RuntimeError("the supervisor of {} ended without a report".format(base))


def run_all(jobs, progress):
    """Rows in the order of `jobs`; KeyboardInterrupt only after everything was ended."""
    waiting = {}
    for number, job in enumerate(jobs):
        waiting.setdefault(job.suite, queue.Queue()).put((number, job))
    rows, failures = {}, []

    def work(suite):
        while not failures:
            try:
                number, job = waiting[suite].get_nowait()
            except queue.Empty:
                return
            try:
                rows[number] = job.run()
            except BaseException as error:  # a fault of this program: shown by the main thread
                failures.append(error)
                return
            if rows[number] is not None:
                progress(rows[number], len([row for row in rows.values() if row]), len(jobs))

    threads = [threading.Thread(target=work, args=(suite,)) for suite in waiting for _ in range(suite.parallel)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            # A plain join cannot be interrupted on every version.
            while thread.is_alive():
                thread.join(0.2)
    except BaseException:
        for job in jobs:
            job.cancel()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        raise
    if failures:
        raise failures[0]
    return [rows[number] for number in range(len(jobs))]


def still_in_shm(suspects, patience_s=3.0):
    """Those names that stay in /dev/shm. All our processes are dead by now: what is still mapped is somebody else's."""
    deadline = time.monotonic() + patience_s
    while True:
        left = set(suspects) & set(supervise.shm_entries())
        if left:
            left -= supervise.shm_in_use()
        if not left or time.monotonic() > deadline:
            return sorted(left)
        time.sleep(0.2)


def parse(arguments):
    """Options, with paths made absolute."""
    parser = argparse.ArgumentParser(description="CPython's own tests against the installed package.")
    parser.add_argument("--only", metavar="TAGS", help="cp36,cp313: these interpreters")
    parser.add_argument("--suites", default=",".join(SUITES), help="default: %(default)s")
    parser.add_argument("--start-methods", default=",".join(START_METHODS), metavar="METHODS")
    parser.add_argument("--venv-dir", default=os.path.join(REPOSITORY, ".venvs"))
    parser.add_argument("--numpy-from", metavar="DIRECTORY", default=os.path.join(REPOSITORY, ".venvs"),
                        help="where `make venvs` made cp36 and so on (default: %(default)s)")
    parser.add_argument("--wheel", help="default: the only one in dist/")
    parser.add_argument("--json", help="where the results go", default=os.path.join(REPOSITORY, "build", "conformance.json"))
    parser.add_argument("--baseline", action="store_true", help="test the standard library instead")
    parser.add_argument("--classes", metavar="REGEX", help="other classes of the test file, e.g. '_TestLock|_TestQueue'")
    parser.add_argument("--strict", action="store_true", default=bool(os.environ.get("CI")),
                        help="an interpreter whose tests are not installed is a failure (default where $CI is set)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for one interpreter and start method")
    options = parser.parse_args(arguments)
    options.suites = options.suites.split(",")
    for name in options.suites:
        if name not in SUITES:
            parser.error("no suite: {}".format(name))
    # The standard library needs none.
    options.lend_numpy = not options.baseline and any(SUITES[name].numpy for name in options.suites)
    options.start_methods = options.start_methods.split(",")
    for method in options.start_methods:
        if method not in START_METHODS:
            parser.error("no start method: {}".format(method))
    if options.baseline:
        options.wheel = None
    else:
        wheels = [options.wheel] if options.wheel else glob.glob(os.path.join(REPOSITORY, "dist", "*.whl"))
        if len(wheels) != 1 or not os.path.isfile(wheels[0]):
            parser.error("give one wheel with --wheel (found: {})".format(", ".join(wheels) or "none"))
        options.wheel = os.path.abspath(wheels[0])
    options.venv_dir = os.path.abspath(options.venv_dir)
    options.numpy_from = os.path.abspath(options.numpy_from)
    options.json = os.path.abspath(options.json)
    options.logs = os.path.splitext(options.json)[0] + "-logs"
    return options


def main(arguments=None):
    """Run it all; see the head of this file for the exit status."""
    options = parse(arguments)
    for directory in (options.venv_dir, os.path.dirname(options.json), options.logs):
        os.makedirs(directory, exist_ok=True)
    everyone = environments.discover()
    wanted = options.only.split(",") if options.only else [interpreter.tag for interpreter in everyone]
    chosen = [interpreter for interpreter in everyone if interpreter.tag in wanted]
    missing = sorted(set(wanted) - {interpreter.tag for interpreter in chosen})
    if missing or not chosen:
        print("not found: {}".format(", ".join(missing) or "any interpreter"), file=sys.stderr)
        return 2
    jobs = []
    for interpreter in chosen:
        environment = Environment(interpreter, options)
        jobs += [Job(SUITES[name], environment, method, options, everyone)
                 for name in options.suites for method in options.start_methods
                 # The standard library of those has nothing that a later version's tests could test.
                 if not (options.baseline and environments.runs_backport(SUITES[name], interpreter))]

    def progress(row, done, total):
        print("[{}/{}] {}".format(done, total, report.line(row)), flush=True)

    try:
        rows = run_all(jobs, progress)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    left = still_in_shm([name for row in rows for name in row["shm_new"]])
    results = {
        "mode": "baseline" if options.baseline else "package",
        "wheel": options.wheel and os.path.basename(options.wheel),
        "runs": rows,
        "logs": os.path.relpath(options.logs),
        "shm_left": left,
        "ok": not left and all(row["ok"] or (row["not_run"] and not options.strict) for row in rows),
    }
    with open(options.json, "w") as file:
        json.dump(results, file, indent=1)
    print(report.summary(results))
    return 0 if results["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
