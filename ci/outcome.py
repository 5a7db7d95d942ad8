"""What came out of one job: counts, reasons of what was skipped, and failures with the end of what they say.

What this file guarantees: a failure can be understood from what CI prints, without the logs, which stay on the machine it ran on.

Standard library only, 3.6 syntax.
"""
import collections
import os
import re

FAILURE_LINES = 30


class Tally:
    """Counts, and the reasons of what was skipped (``{reason: how often}``)."""

    def __init__(self, passed=0, failed=0, skipped=0):
        self.passed, self.failed, self.skipped = passed, failed, skipped
        self.reasons = collections.Counter()
        self.failures = []  # one line each, and under it what its log says last

    def text(self):
        """``12 passed, 1 failed``, without zeros except that of passed."""
        parts = ["{} passed".format(self.passed)]
        parts += ["{} {}".format(n, word) for n, word in ((self.failed, "failed"), (self.skipped, "skipped")) if n]
        return ", ".join(parts)

    def broke(self, why):
        """Count a part that gave no usable report."""
        self.failed += 1
        self.failures.append(why)


def ended_badly(job):
    """Why the job's end is a failure by itself, or ""."""
    if not job.timed_out and job.status >= 0:
        return ""
    how = "stopped after {} s".format(job.limit) if job.timed_out else "killed by signal {}".format(-job.status)
    return "{} was {}, see {}:\n{}".format(job.name, how, os.path.relpath(job.log), job.tail())


def last_lines(text):
    """The end of ``text``, each line on one of its own, to put under a failure's name."""
    return "".join("\n" + line for line in text.rstrip().splitlines()[-FAILURE_LINES:])


def of_cargo(job):
    """Sum of cargo's "test result" lines, and what each test that failed said before its stack."""
    tally = Tally()
    with open(job.log, errors="replace") as log:
        text = log.read()
    for passed, failed, ignored in re.findall(r"^test result: .*?(\d+) passed; (\d+) failed; (\d+) ignored", text, re.M):
        tally.passed += int(passed)
        tally.failed += int(failed)
        tally.skipped += int(ignored)
    for name, said in re.findall(r"^---- ([^\n]+) stdout ----$(.*?)(?=^---- |^failures:$|\Z)", text, re.M | re.S):
        before_stack = re.split(r"^stack backtrace:", said, flags=re.M)[0]
        tally.failures.append("{}: {}{}".format(job.name, name, last_lines(before_stack.strip())))
    for line in re.findall(r"^.*process didn't exit successfully: .*\(signal: .*$", text, re.M):
        tally.broke("{}: {}".format(job.name, line.strip()))
    # `cargo test -q` shows an ignored test as an `i`: say at least how many.
    if tally.skipped:
        tally.reasons["marked #[ignore] in the Rust sources"] += tally.skipped
    if ended_badly(job) or (job.status != 0 and not tally.failed):
        tally.broke(ended_badly(job) or "{}: cargo test ended with status {}:\n{}".format(job.name, job.status, job.tail()))
    return tally
