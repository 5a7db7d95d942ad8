"""Runs one command with everything that it starts on a leash.

Guarantees: whatever the command leaves behind (double forks, daemons, new sessions) is found, reported and ended; the
same when the time is over, when this process gets SIGTERM, and when the process that started it is gone (its end of
our standard input is closed then). Only descendants of this process are ever signalled.

The command works in a temporary directory of its own, which is removed. Writes one JSON object to `--report`. Linux:
orphans come back to this process as their "subreaper"; elsewhere only the command's own process group is held. Standard
library only, 3.6 syntax.
"""
import argparse
import glob
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

POLL_S = 0.05
PR_SET_CHILD_SUBREAPER = 36

# Those that tidy up once everybody else is dead get the time to do so before they are killed as well.
TRACKERS = re.compile(r"shared-numpy-tracker|(resource|semaphore)_tracker import main")
TRACKERS_GET_S = 3.0


def become_subreaper():
    """Orphaned descendants get this process as their parent. Returns whether that works here."""
    try:
        import ctypes
        return ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        return False


def descendants():
    """[(pid, command line)] of all living descendants of this process."""
    parents = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if entry.isdigit():
            try:
                with open("/proc/{}/stat".format(entry), "rb") as stat:
                    # The command name is in brackets and may contain anything, brackets too.
                    state, parent = stat.read().rpartition(b")")[2].split()[:2]
            except OSError:
                continue
            if state not in (b"Z", b"X"):
                parents[int(entry)] = int(parent)
    found, frontier = [], {os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found.extend(sorted(frontier))
    return [(pid, _command_line(pid)) for pid in found]


def _command_line(pid):
    try:
        with open("/proc/{}/cmdline".format(pid), "rb") as file:
            return file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()[:300]
    except OSError:
        return ""


def shm_entries():
    """{name: (device, inode)} of what this user has in /dev/shm."""
    entries = {}
    try:
        with os.scandir("/dev/shm") as listing:
            for entry in listing:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if status.st_uid == os.getuid():
                    entries[entry.name] = (status.st_dev, status.st_ino)
    except OSError:
        pass
    return entries


def shm_in_use():
    """Names in /dev/shm that some live process, as far as we may look, has mapped."""
    names = set()
    for path in glob.glob("/proc/[0-9]*/maps"):
        try:
            with open(path, errors="replace") as maps:
                names.update(line.split("/dev/shm/", 1)[1].rstrip("\n") for line in maps if "/dev/shm/" in line)
        except OSError:
            pass
    return names


class Leash:
    """The command and all that comes from it."""

    def __init__(self, command, log, errors, scratch):
        self.complete = become_subreaper()
        with open(log, "wb") as out, open(errors, "wb") as err:
            self.pid = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                cwd=scratch, env=dict(os.environ, TMPDIR=scratch)).pid
        self.status = None
        self.childless = False

    def reap(self):
        """Collect the dead; remember how the command ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def traceback(self):
        """Ask the command for the stacks of its threads, in its log."""
        if self.status is None:
            os.kill(self.pid, signal.SIGUSR1)
            time.sleep(0.5)

    def kill(self):
        """End everything, trackers last. Descendants may still fork while they are being killed, hence the loop."""
        spare_until = time.monotonic() + TRACKERS_GET_S
        while not self.childless:
            spare = time.monotonic() < spare_until
            for pid, line in descendants() or [(self.pid, "")] * (self.status is None):
                if not (spare and TRACKERS.search(line)):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            time.sleep(0.01)
            self.reap()


def main():
    """Status 0 when the report was written, whatever it says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=float, required=True, help="seconds until the command is ended")
    parser.add_argument("--grace", type=float, required=True, help="seconds that others may outlive the command")
    parser.add_argument("--report", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--errors", required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command

    stop = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.append(True))
    # Short: the path of a fork server's socket, which is made below it, may have 107 bytes.
    scratch = tempfile.mkdtemp(prefix="conf-")
    try:
        before = shm_entries()
        leash = Leash(command, options.log, options.errors, scratch)
        report = hold(leash, options, stop)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if report is None:
        return 1
    # Others may use /dev/shm meanwhile: these are suspects, the caller looks again at its end.
    report["shm_new"] = sorted(name for name, key in shm_entries().items() if before.get(name) != key)
    with open(options.report, "w") as file:
        json.dump(report, file)
    return 0


def hold(leash, options, stop):
    """Wait for the end of it all. The report, or None when it was cut short from outside."""
    started = time.monotonic()
    timed_out, left, ended = False, [], None
    while not leash.childless:
        try:
            orphaned = bool(select.select([sys.stdin], [], [], POLL_S)[0])
        except InterruptedError:
            orphaned = False
        leash.reap()
        now = time.monotonic()
        if stop or orphaned:
            leash.kill()
            return None
        if leash.status is None and now - started > options.limit:
            timed_out = True
            leash.traceback()
            leash.kill()
        elif leash.status is not None:
            ended = ended or now
            if now - ended > options.grace:
                left = [{"pid": pid, "command": line} for pid, line in descendants()]
                leash.kill()

    return {
        "status": leash.status,
        "timed_out": timed_out,
        "seconds": round((ended or time.monotonic()) - started, 2),
        "processes_left": left,
        "all_descendants_seen": leash.complete,
    }


if __name__ == "__main__":
    sys.exit(main())
