"""Run commands side by side, each with a time limit and a log file, and leave none of them behind.

What this file guarantees:

* each command is the leader of a session of its own, and its process group is killed when the time is over, on Ctrl-C, on
  SIGTERM, and when any exception leaves ``run_all``;
* standard input is /dev/null, all output goes to the job's log;
* the caller is told as each job ends, in the main thread.

Standard library only, 3.6 syntax.
"""
import os
import signal
import subprocess
import time

POLL_S = 0.1
# Between SIGINT, on which pytest still writes its report and the conformance runner ends what it holds, and SIGKILL.
MERCY_S = 10


def _heed_interrupts():
    # A shell that starts us in the background has SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Job:
    """One command: ``name``, ``command``, ``cwd``, ``env``, ``log`` (a path), ``limit`` (seconds)."""

    def __init__(self, name, command, cwd, env, log, limit):
        self.name, self.command, self.cwd, self.env, self.log, self.limit = name, command, cwd, env, log, limit
        self.status = None  # exit status, negative for a signal
        self.timed_out = False
        self.seconds = 0.0
        self._process = None
        self._began = 0.0

    def start(self):
        """Start it; its output goes to the log from the beginning."""
        os.makedirs(os.path.dirname(self.log), exist_ok=True)
        self._began = time.monotonic()
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self.cwd, env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_heed_interrupts)

    def finished(self):
        """Whether it has ended; ends it when its time is over."""
        if self._alive():
            if time.monotonic() - self._began < self.limit:
                return False
            self.timed_out = True
        self.kill()
        self.status = self._process.returncode
        self.seconds = time.monotonic() - self._began
        return True

    def kill(self):
        """End it if it lives, politely first, and whatever else is in its process group (a test's child that hangs)."""
        if self._process is None or self._process.returncode is not None:
            return
        if self._alive():
            self._signal(signal.SIGINT)
            deadline = time.monotonic() + MERCY_S
            while self._alive() and time.monotonic() < deadline:
                time.sleep(POLL_S)
        # Not reaped yet, so that the number of the group is still ours.
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _alive(self):
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def _signal(self, number):
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def tail(self, lines=30):
        """The end of its log."""
        with open(self.log, "rb") as log:
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])


def run_all(jobs, parallel, ended):
    """Run the jobs in order, ``parallel`` at a time; ``ended(job)`` is called for each as it ends."""

    def stop(_number, _frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    waiting, running = list(jobs), []
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                job = waiting.pop(0)
                running.append(job)
                job.start()
            for job in [job for job in running if job.finished()]:
                running.remove(job)
                ended(job)
            time.sleep(POLL_S)
    finally:
        for job in running:
            job.kill()
        signal.signal(signal.SIGTERM, before)
