#!/usr/bin/env python3
"""Run every test there is and say what came out: ``make test`` (the wheel and the environments are made before).

What this file guarantees:

* run are: the check of the wheel; the Rust tests; for each CPython found our pytest suite against the *installed wheel*
  (it is asked where the package comes from); the array tests on the oldest and the newest, and the Rust tests of pools, as if
  the system lacked each of its features (``SHARED_NUMPY_DISABLE``) and all of them; those of queues, channels and locks on the
  newest, as if it lacked a tracker;
  CPython's own tests, by ``tests/conformance/run.py``;
* exit status 0 only if all of that ran, each interpreter had at least one test, nothing failed, nothing stayed in /dev/shm
  and no tracker stayed alive; with ``CI=true`` also only if 3.6 and 3.7 were there;
* whatever was left out is listed with its reason: interpreters, skipped tests, conformance tests;
* the last line is ``N passed, N failed, N skipped``; a part that broke without a report counts as one failure;
* Ctrl-C ends everything that was started; each job has a time limit; logs are in ``build/test-logs``.

Standard library only, 3.6 syntax.
"""
import argparse
import collections
import glob
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree

import interpreters
import jobs
import leftovers
from outcome import Tally, ended_badly, last_lines, of_cargo

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENVS = os.path.join(ROOT, ".venvs")
LOGS = os.path.join(ROOT, "build", "test-logs")
PARALLEL = 2
WHEEL_LIMIT_S = 60
SUITE_LIMIT_S = 15 * 60
RUST_LIMIT_S = 20 * 60
CONFORMANCE_LIMIT_S = 30 * 60
# What may be missing on a system, as ``SHARED_NUMPY_DISABLE`` has it, and what is tested without it.
FEATURES = ["memfd", "memfd,o_tmpfile", "pidfd", "populate", "tracker", "abstract", "memory_check",
            "memfd,o_tmpfile,pidfd,populate,tracker,abstract,memory_check,waitv"]
ARRAY_TESTS = ["arrays"]
# What is tested besides without a tracker, which most of it can do without.
SHARING_TESTS = ["queues", "test_latest*.py", "test_synchronize*.py"]
RUST_FEATURES = "memfd,pidfd,abstract,waitv"
EXPECTED_IN_CI = ("cp36", "cp37")
WHERE = "import sys, shared_numpy; sys.exit(not shared_numpy.__file__.startswith(sys.prefix))"


def clean_environment():
    """Our environment without what would change where the tests' Python imports from."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("PYTHON", "SHARED_NUMPY_", "MAKE", "MFLAGS")) and k != "VIRTUAL_ENV"}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    return env


def own_shm():
    """What to put before a command that is to have a /dev/shm of its own; None where the machine does not allow it."""
    wrapper = ["sh", os.path.join(ROOT, "ci", "own_shm.sh")]
    try:
        done = subprocess.run(wrapper + ["--possible"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    except OSError:
        return None
    return wrapper if done.returncode == 0 else None


# The wheel, and the Rust tests.

def wheel_job():
    """ci/check_wheel.py needs pyelftools, which the build environment has."""
    wheels = sorted(glob.glob(os.path.join(ROOT, "dist", "*.whl")))
    command = [os.path.join(VENVS, "build", "bin", "python"), os.path.join(ROOT, "ci", "check_wheel.py")] + wheels
    return jobs.Job("wheel", command, ROOT, clean_environment(), os.path.join(LOGS, "wheel.log"), WHEEL_LIMIT_S)


def wheel_tally(job):
    """One check, which passes or not."""
    tally = Tally(passed=int(job.status == 0))
    if job.status != 0:
        tally.broke(ended_badly(job) or job.tail())
    return tally


def rust_job():
    """All crates but the extension module, which can only be tested from Python."""
    command = ["cargo", "test", "-q", "--no-fail-fast", "--locked", "--workspace", "--exclude", "shared-numpy-python",
               "--features", "shared-numpy-core/fault"]
    return jobs.Job("rust", command, ROOT, dict(os.environ, PYO3_NO_PYTHON="1"), os.path.join(LOGS, "rust.log"), RUST_LIMIT_S)


def rust_fallback_job():
    """The Rust tests of pools and their trackers on a system that is older than ours."""
    command = ["cargo", "test", "-q", "--no-fail-fast", "--locked", "-p", "shared-numpy-core", "-p", "shared-numpy-tracker",
               "--features", "shared-numpy-core/fault", "--test", "pool", "--test", "participation", "--test", "members"]
    env = dict(os.environ, PYO3_NO_PYTHON="1", SHARED_NUMPY_DISABLE=RUST_FEATURES)
    name = "rust without " + RUST_FEATURES
    return jobs.Job(name, command, ROOT, env, os.path.join(LOGS, "rust-fallback.log"), RUST_LIMIT_S)


# Our own suite.

def suite_job(interpreter, without="", only=()):
    """pytest in this interpreter's environment, with a working directory from which only the installed package is seen.

    With ``without`` only these of the tests, and without these features of the system.
    """
    python = os.path.join(VENVS, interpreter.tag, "bin", "python")
    scratch = os.path.join(ROOT, "build", "test-cwd", label(interpreter, without))
    shutil.rmtree(scratch, ignore_errors=True)
    os.makedirs(scratch)
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.path.join(ROOT, "pyproject.toml"), "--rootdir", ROOT,
               "--junitxml", junit_path(interpreter, without)]
    tests = os.path.join(ROOT, "tests")
    paths = [glob.glob(os.path.join(tests, pattern)) for pattern in only]
    command += sorted(path for some in paths for path in some) or [tests]
    if os.path.exists(junit_path(interpreter, without)):
        os.remove(junit_path(interpreter, without))
    log = os.path.join(LOGS, label(interpreter, without) + "-suite.log")
    env = clean_environment()
    if without:
        env["SHARED_NUMPY_DISABLE"] = without
    name = "{} {}".format(interpreter.tag, "without " + without if without else "suite")
    return jobs.Job(name, command, scratch, env, log, SUITE_LIMIT_S)


def label(interpreter, without=""):
    """The beginning of the names of a job's files."""
    return interpreter.tag + ("-without-" + without.replace(",", "-") if without else "")


def junit_path(interpreter, without=""):
    """Where pytest writes its counts."""
    return os.path.join(LOGS, label(interpreter, without) + "-suite.xml")


def suite_tally(job, interpreter, without=""):
    """What pytest's report says; no report, no tests, or a status that the report does not explain count as a failure."""
    tally = Tally()
    python = os.path.join(VENVS, interpreter.tag, "bin", "python")
    where = subprocess.run(
        [python, "-c", WHERE], cwd=job.cwd, env=job.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if where.returncode:
        tally.broke("{}: the package that is tested is not the installed one {}".format(
            job.name, where.stderr.decode("utf-8", "replace").strip()))
    try:
        cases = list(xml.etree.ElementTree.parse(junit_path(interpreter, without)).iter("testcase"))
    except (OSError, xml.etree.ElementTree.ParseError):
        tally.broke(ended_badly(job) or "{}: no report (status {}):\n{}".format(job.name, job.status, job.tail()))
        return tally
    # pytest writes an error at teardown as a second case of the same name: a test is one test.
    verdicts = {}
    for case in cases:
        key = "{}::{}".format(case.get("classname"), case.get("name"))
        bad = [each for each in case if each.tag in ("failure", "error")]
        skip = case.find("skipped")
        if bad:
            verdicts[key] = "failed"
            said = "".join(last_lines(each.text or each.get("message") or "") for each in bad)
            tally.failures.append("{}: {}{}".format(job.name, key, said))
        elif verdicts.get(key) != "failed":
            verdicts[key] = "passed" if skip is None else "skipped"
            if skip is not None:
                tally.reasons[skip.get("message") or "no reason given"] += 1
    counts = collections.Counter(verdicts.values())
    tally.passed, tally.skipped = counts["passed"], counts["skipped"]
    tally.failed += counts["failed"]
    if not counts["passed"] and not counts["failed"]:
        tally.broke("{}: not one test ran".format(job.name))
    elif ended_badly(job) or (job.status != 0 and not counts["failed"]):
        tally.broke(ended_badly(job) or "{}: pytest ended with status {}:\n{}".format(job.name, job.status, job.tail()))
    return tally


# CPython's own tests.

def conformance_job(tags, report):
    """One run for all interpreters: it does some at a time by itself and prints a line for each."""
    command = [sys.executable, os.path.join(ROOT, "tests", "conformance", "run.py"), "--only", ",".join(tags),
               "--venv-dir", VENVS, "--numpy-from", VENVS, "--json", report]
    log = os.path.join(LOGS, "conformance.log")
    return jobs.Job("conformance", command, ROOT, dict(os.environ), log, CONFORMANCE_LIMIT_S)


def conformance_tally(job, report):
    """``(tally, {tag: {start method: rows}})`` from the report."""
    tally, table = Tally(), {}
    try:
        with open(report) as stream:
            results = json.load(stream)
    except (OSError, ValueError):
        tally.broke(ended_badly(job) or "conformance: no report (status {}):\n{}".format(job.status, job.tail()))
        return tally, table
    for row in results["runs"]:
        table.setdefault(row["tag"], {}).setdefault(row["start_method"], []).append(row)
        tally.passed += row["passed"]
        tally.failed += row["total"] - row["passed"]
        tally.skipped += len(row["left_out"])
        name = "{suite} {tag} {start_method}".format(**row)
        for left in row["left_out"]:
            tally.reasons["{}: {}".format(left["test"], left["reason"])] += 1
        tally.failures += ["conformance {}: {}".format(name, _one_line(failure)) for failure in row["failures"]]
        for problem in row["problems"]:
            tally.failures.append("conformance {}: {}".format(name, problem))
        if not row["ok"] and row["total"] == row["passed"]:
            tally.failed += 1
    if job.status != 0 and not tally.failed:
        tally.broke(ended_badly(job) or "conformance: ended with status {}:\n{}".format(job.status, job.tail()))
    return tally, table


def _one_line(failure):
    text = failure.get("test", str(failure)) if isinstance(failure, dict) else str(failure)
    return text.splitlines()[0]


def conformance_cell(by_method):
    """``fork 45/45  spawn 45/45 ...`` for one interpreter, all suites together."""
    return "  ".join("{} {}/{}{}".format(method, sum(row["passed"] for row in rows), sum(row["total"] for row in rows),
                                         "" if all(row["ok"] for row in rows) else " !")
                     for method, rows in by_method.items()) or "-"


# All together.

def summary(taken, left_out, absent, results, extra, seconds):
    """Print the tables; the exit status."""
    suites, conformance, table = results["suites"], results["conformance"], results["table"]
    print("\n{:<22} {:<34} {}".format("interpreter", "suite", "conformance (CPython's own tests)"))
    for name in ("wheel", "rust"):
        if results[name] is not None:
            print("{:<22} {}".format(name, results[name].text()))
    for name, tally in sorted(results["fallbacks"].items()):
        print("{:<22} {}".format(name, tally.text()))
    for interpreter in taken:
        suite = suites.get(interpreter.tag)
        print("{:<22} {:<34} {}".format(
            "{} ({})".format(interpreter.tag, interpreter.version_text), suite.text() if suite else "-",
            conformance_cell(table.get(interpreter.tag, {}))))
    print("\nleft out:")
    for path, version, reason in left_out:
        print("  {} {}: {}".format(path, version, reason).replace(" :", ":"))
    tallies = [("wheel", results["wheel"]), ("Rust", results["rust"])]
    tallies += sorted(suites.items()) + sorted(results["fallbacks"].items()) + [("conformance", conformance)]
    reasons = collections.defaultdict(list)
    for name, tally in tallies:
        for reason, count in sorted(tally.reasons.items()) if tally else ():
            reasons[reason].append("{} {}".format(count, name))
    for reason, where in sorted(reasons.items()):
        print("  {} ({})".format(" ".join(reason.split()), ", ".join(where)))
    for tag in absent:
        print("  {}: no such interpreter was found on this machine".format(tag))
    if not left_out and not reasons and not absent:
        print("  nothing")
    failures = [line for _name, tally in tallies if tally for line in tally.failures] + extra
    if failures:
        print("\nfailed:")
        for line in failures:
            print("  " + line.replace("\n", "\n    "))
    known = [tally for _name, tally in tallies if tally]
    total = Tally(sum(t.passed for t in known), sum(t.failed for t in known) + len(extra), sum(t.skipped for t in known))
    print("\n{:.0f} min {:02.0f} s; logs are in {}\n".format(seconds // 60, seconds % 60, os.path.relpath(LOGS, os.getcwd())))
    print("{} passed, {} failed, {} skipped".format(total.passed, total.failed, total.skipped), flush=True)
    return 1 if total.failed or failures else 0


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description="Run every test there is.")
    parser.add_argument("--only", metavar="TAGS", help="cp36,cp313: these interpreters")
    parser.add_argument("--parts", default="wheel,rust,suite,fallbacks,conformance", help="which parts; all by default")
    options = parser.parse_args()
    parts = options.parts.split(",")
    began = time.monotonic()
    taken, left_out = interpreters.discover()
    absent = [tag for tag in EXPECTED_IN_CI if tag not in [i.tag for i in taken]]
    extra = []
    if options.only:
        wanted = options.only.split(",")
        left_out += [(i.path, i.version_text, "not asked for") for i in taken if i.tag not in wanted]
        taken = [i for i in taken if i.tag in wanted]
    elif os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        extra = ["{} was not found, and CI must test it".format(tag) for tag in absent]
    if not taken:
        raise SystemExit("no interpreter to test with")
    shutil.rmtree(LOGS, ignore_errors=True)
    os.makedirs(LOGS)
    report = os.path.join(ROOT, "build", "conformance.json")
    if os.path.exists(report):
        os.remove(report)
    watch = leftovers.Watch([VENVS])

    work = {}  # job: (what it is, interpreter)
    if "wheel" in parts:
        work[wheel_job()] = ("wheel", None)
    if "rust" in parts:
        work[rust_job()] = ("rust", None)
    if "suite" in parts:
        # The newest first: most people look there, and a mistake shows within a minute.
        for interpreter in reversed(taken):
            work[suite_job(interpreter)] = ("suite", interpreter)
    if "fallbacks" in parts:
        work[rust_fallback_job()] = ("rust fallback", None)
        for features in FEATURES:
            for interpreter in taken[-1:] + taken[:-1][:1]:
                is_more = interpreter is taken[-1] and "tracker" in features.split(",")
                job = suite_job(interpreter, features, ARRAY_TESTS + (SHARING_TESTS if is_more else []))
                work[job] = ("fallback", (interpreter, features))
    results = {"wheel": None, "rust": None, "suites": {}, "fallbacks": {}, "conformance": None, "table": {}}
    count = [0, len(work) + ("conformance" in parts)]

    def ended(job):
        """Say how a job ended, as it ends."""
        kind, interpreter = work[job]
        if kind == "wheel":
            tally = results["wheel"] = wheel_tally(job)
        elif kind == "rust":
            tally = results["rust"] = of_cargo(job)
        elif kind == "rust fallback":
            tally = results["fallbacks"][job.name] = of_cargo(job)
        elif kind == "fallback":
            tally = results["fallbacks"][job.name] = suite_tally(job, *interpreter)
        elif kind == "suite":
            tally = results["suites"][interpreter.tag] = suite_tally(job, interpreter)
        else:
            tally, results["table"] = conformance_tally(job, report)
            results["conformance"] = tally
        count[0] += 1
        print("[{}/{}] {}: {} ({:.0f} s)".format(count[0], count[1], job.name, tally.text(), job.seconds), flush=True)

    wrapper = own_shm()
    for job in work:
        job.command = (wrapper or []) + job.command
    if wrapper is None:
        print("/dev/shm cannot be had for each job alone (that takes the right to mount): one job at a time", flush=True)
    try:
        jobs.run_all(list(work), PARALLEL if wrapper else 1, ended)
        if "conformance" in parts:
            # Alone: it runs several at a time itself, and its tests have deadlines.
            job = conformance_job([i.tag for i in taken], report)
            job.command = (wrapper or []) + job.command
            work[job] = ("conformance", None)
            jobs.run_all([job], 1, ended)
    except KeyboardInterrupt:
        print("\ninterrupted; everything that was started has been ended", file=sys.stderr)
        return 130
    extra += ["left behind: " + thing for thing in watch.remains()]
    return summary(taken, left_out, absent, results, extra, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
