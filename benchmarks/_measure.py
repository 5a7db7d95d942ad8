"""How these scripts measure: rounds that alternate between implementations, each in a process of its own, and their medians.

Why so: the machine's other work comes and goes, so both sides must meet the same moments; and an implementation's tracker, page
cache or import side effects must not be paid by the other. A *server* is this interpreter running ``compare.py --serve NAME``,
which does one round of a job for each line that it reads and answers with the seconds that it took.
"""
import collections
import os
import statistics
import subprocess
import sys
import time

# Before each round: time for the tracker of the round before to read what was sent to it. Seconds.
SETTLE_S = 0.01


class Server:
    """A process that measures one implementation."""

    def __init__(self, script, implementation):
        self.implementation = implementation
        self._process = subprocess.Popen(
            [sys.executable, script, "--serve", implementation], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            universal_newlines=True)

    def ask(self, job, iterations):
        """Seconds per iteration of one round; `RuntimeError` when the server failed (it has said why on stderr)."""
        try:
            self._process.stdin.write("{} {}\n".format(job, iterations))
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise RuntimeError("the benchmark {} failed with {}".format(job, self.implementation))
        return float(answer) / iterations

    def close(self):
        """End of input is the end of the server."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_exc_info):
        self.close()


def serve(jobs):
    """The server's side: ``jobs`` maps names to functions that take the iterations and return the seconds."""
    for line in sys.stdin:
        job, iterations = line.split()
        print(repr(jobs[job](int(iterations))), flush=True)


def median(values):
    """The middle one."""
    return statistics.median(values)


def samples(sides, rounds):
    """Call each of ``sides`` (a dict of functions) once a round; what they returned. A first round is not counted."""
    found = collections.OrderedDict((name, []) for name in sides)
    for turn in range(rounds + 1):
        for name, measure in sides.items():
            time.sleep(SETTLE_S)
            value = measure()
            if turn > 0:
                found[name].append(value)
    return found


def interleave(sides, rounds):
    """As `samples`, for functions that return a time; the medians."""
    return collections.OrderedDict(
        (name, median(values)) for name, values in samples(sides, rounds).items())


def run_python(code, *arguments):
    """Run ``code`` in a fresh interpreter; what it printed. `RuntimeError` when it failed."""
    done = subprocess.run(
        [sys.executable, "-c", code] + list(arguments), stdout=subprocess.PIPE, universal_newlines=True)
    if done.returncode != 0:
        raise RuntimeError("a benchmark's process ended with status {}".format(done.returncode))
    return done.stdout


def wall_of_python(code):
    """Seconds from the start to the end of a fresh interpreter that runs ``code``; compiled modules are kept."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    subprocess.check_call([sys.executable, "-c", code], stdin=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - began


def children_of(pid):
    """Pids of the direct children of a process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/{}/stat".format(entry), "rb") as stream:
                    fields = stream.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            if int(fields[1]) == pid:
                found.append(int(entry))
    return found


def status_kib(pid, field):
    """A memory field of ``/proc/PID/status`` (VmRSS, RssAnon ...) in KiB."""
    with open("/proc/{}/status".format(pid)) as stream:
        for line in stream:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise RuntimeError("no {} in the status of process {}".format(field, pid))


def cpu_seconds(pid):
    """Time on a CPU that the process has had so far, in seconds, with the resolution of the scheduler."""
    with open("/proc/{}/schedstat".format(pid)) as stream:
        return int(stream.read().split()[0]) / 1e9
