"""What a test run left on the machine: files in /dev/shm, tracker processes.

What this file guarantees: ``Watch().remains()`` names every file of this user in /dev/shm that was not there when the watch
began and every living tracker that was started from one of our environments since, after giving both a few seconds to go.
Files that a living process other than such a tracker has mapped or open are somebody else's (all of ours have ended) and
are not named. Linux only: elsewhere nothing is seen.
"""
import os
import time

SHM = "/dev/shm"
TRACKER = "shared-numpy-tracker"
PATIENCE_S = 8


def _shm():
    """``{name: (device, inode)}`` of this user's files in /dev/shm."""
    found = {}
    try:
        with os.scandir(SHM) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if status.st_uid == os.getuid():
                    found[entry.name] = (status.st_dev, status.st_ino)
    except OSError:
        pass
    return found


def _processes():
    """``[(pid, path of its executable)]`` of this user's processes."""
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if entry.isdigit():
            try:
                found.append((int(entry), os.readlink("/proc/{}/exe".format(entry))))
            except OSError:
                continue
    return found


def _uses(pid, path):
    """Whether a process has this file mapped or open."""
    try:
        with open("/proc/{}/maps".format(pid), "rb") as maps:
            if path.encode() in maps.read():
                return True
        folder = "/proc/{}/fd".format(pid)
        return any(os.readlink(os.path.join(folder, fd)) == path for fd in os.listdir(folder))
    except OSError:
        return False


class Watch:
    """Begins when it is made. ``roots``: directories below which our environments are."""

    def __init__(self, roots):
        # A link to an interpreter is resolved in /proc/<pid>/exe: only executables of ours, the trackers, are below the roots.
        self._roots = tuple(os.path.realpath(root) + os.sep for root in roots)
        self._shm = _shm()
        self._trackers = set(self._living_trackers())

    def _living_trackers(self):
        return [(pid, exe) for pid, exe in _processes()
                if os.path.basename(exe).startswith(TRACKER) and exe.startswith(self._roots)]

    def _look(self):
        trackers = [pair for pair in self._living_trackers() if pair not in self._trackers]
        new = sorted(name for name, key in _shm().items() if self._shm.get(name) != key)
        if new:
            ours = {pid for pid, _exe in trackers}
            others = [pid for pid, _exe in _processes() if pid not in ours]
            new = [name for name in new if not any(_uses(pid, os.path.join(SHM, name)) for pid in others)]
        return ["{}/{}".format(SHM, name) for name in new] + [
            "process {} ({})".format(pid, exe) for pid, exe in trackers]

    def remains(self):
        """Descriptions of what is left; waits up to ``PATIENCE_S`` for it to go."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            left = self._look()
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.25)
