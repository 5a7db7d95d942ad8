"""Programs of their own for tests, and what is seen of them from outside, in /proc."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid

import pytest

METHODS = ("fork", "spawn", "forkserver")
# Pythons without `multiprocessing.shared_memory`.
OLD = sys.version_info < (3, 8)
MARK = "SHARED_NUMPY_TEST_PROGRAM"
TRACKER = "shared-numpy-tracker"
# What SHARED_NUMPY_DISABLE says; `ci/matrix.py` has the array tests run without each feature, and more without a tracker.
DISABLED = [each.strip() for each in os.environ.get("SHARED_NUMPY_DISABLE", "").split(",") if each.strip()]
needs_tracker = pytest.mark.skipif(
    "tracker" in DISABLED, reason="SHARED_NUMPY_DISABLE=tracker: what a process sent is out of reach when it has ended")
# For what has to happen, however busy the machine is.
PATIENCE_S = 60


def mem_available():
    """Bytes that can be allocated on this machine now."""
    with open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def soon(condition):
    """Waits for a condition; whether it came true."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def pids():
    """All processes but this one."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def is_alive(pid):
    """Whether there is such a process, and it is no zombie."""
    try:
        with open("/proc/{}/stat".format(pid)) as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def memory_files(pid):
    """The files of nameless shared memory that a process has mapped or open, as (device, inode)."""
    files = set()
    try:
        with open("/proc/{}/maps".format(pid)) as lines:
            for line in lines:
                parts = line.split(None, 5)
                if len(parts) == 6 and _is_memory(parts[5]):
                    major, minor = parts[3].split(":")
                    files.add((os.makedev(int(major, 16), int(minor, 16)), int(parts[4])))
        folder = "/proc/{}/fd".format(pid)
        for fd in os.listdir(folder):
            path = os.path.join(folder, fd)
            try:
                if _is_memory(os.readlink(path)):
                    status = os.stat(path)
                    files.add((status.st_dev, status.st_ino))
            except OSError:
                pass  # closed meanwhile
    except OSError:
        pass  # ended, or somebody else's
    return files


def _is_memory(path):
    # The second: SHARED_NUMPY_DISABLE=memfd.
    return path.startswith("/memfd:shared_numpy") or (path.startswith("/dev/shm/") and "(deleted)" in path)


def committed_by(pid):
    """Bytes of the files of nameless shared memory that a process has open."""
    sizes, folder = {}, "/proc/{}/fd".format(pid)
    for fd in os.listdir(folder):
        path = os.path.join(folder, fd)
        try:
            if _is_memory(os.readlink(path)):
                status = os.stat(path)
                sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
        except OSError:
            pass  # closed meanwhile
    return sum(sizes.values())


def users_of(files):
    """The processes, besides this one, that have one of these files mapped or open."""
    return [pid for pid in pids() if memory_files(pid) & files]


def trackers_of(files):
    """The members trackers among the processes that have one of these files."""
    return [pid for pid in users_of(files) if argv(pid)[1:] == ["members"]]


def argv(pid):
    """The command line of a process; empty when it has ended."""
    try:
        with open("/proc/{}/cmdline".format(pid)) as line:
            return line.read().rstrip("\0").split("\0")
    except OSError:
        return []


def shm_exists(name):
    """Whether there is named memory of that name."""
    return os.path.exists("/dev/shm/" + name.lstrip("/"))


def names_left(names):
    """Those of these names that are in /dev/shm."""
    return [name for name in names if shm_exists(name)]


class Program:
    """A script in an interpreter and a session of its own.

    Its processes inherit a mark in their environment, by which they are found. Everything
    is ended at the end of the ``with`` block.
    """

    def __init__(self, folder, script, *arguments, **environment):
        path = os.path.join(str(folder), "program{}.py".format(len(os.listdir(str(folder)))))
        with open(path, "w") as out:
            out.write(textwrap.dedent(script))
        self._mark = "{}={}".format(MARK, uuid.uuid4().hex)
        name, value = self._mark.split("=")
        environment = dict(os.environ, **environment)
        environment[name] = value
        # `import programs` works in scripts.
        environment["PYTHONPATH"] = os.pathsep.join(
            [os.path.dirname(os.path.abspath(__file__))] + environment.get("PYTHONPATH", "").split(os.pathsep))
        # No relative of ours, and no user of our tracker, whichever tests came before.
        environment.pop("SHARED_NUMPY_FAMILY", None)
        environment.pop("SHARED_NUMPY_TRACKER", None)
        self._popen = subprocess.Popen(
            [sys.executable, path] + list(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, universal_newlines=True, env=environment, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            stream.close()

    def line(self):
        """The next line that it prints."""
        line = self._popen.stdout.readline()
        assert line, self._popen.communicate()[1]
        return line.rstrip("\n")

    def tell(self, text=""):
        """Sends it a line."""
        self._popen.stdin.write(text + "\n")
        self._popen.stdin.flush()

    def end(self):
        """Waits for its end, which has to be a good and silent one; what else it printed."""
        out, err = self._popen.communicate(timeout=100)
        assert self._popen.returncode == 0 and err == "", "status {}\n{}".format(self._popen.returncode, err)
        return out

    def processes(self):
        """All its processes, trackers too."""
        found = []
        for pid in pids():
            try:
                with open("/proc/{}/environ".format(pid)) as environ:
                    if self._mark in environ.read().split("\0") and is_alive(pid):
                        found.append(pid)
            except (OSError, UnicodeDecodeError):
                pass
        return found

    def files(self):
        """All memory that its processes have."""
        return set().union(*map(memory_files, self.processes()))

    def kill(self, spare=()):
        """SIGKILLs all its processes but some, at once."""
        victims = [pid for pid in self.processes() if pid not in spare]
        for stop in (signal.SIGSTOP, signal.SIGKILL):
            for pid in victims:
                try:
                    os.kill(pid, stop)
                except ProcessLookupError:
                    pass
        if self._popen.poll() is None and self._popen.pid in victims:
            self._popen.wait()


def run_python(code, *args, **options):
    """Runs `code` in a new interpreter; gives (return code, output, errors)."""
    wrapper = options.pop("wrapper", [])
    done = subprocess.Popen(
        wrapper + [sys.executable, "-c", textwrap.dedent(code)] + list(args),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, **options)
    out, err = done.communicate(timeout=60)
    return done.returncode, out, err


def run(folder, script, *arguments, **environment):
    """Runs a script to its end, which has to be good and silent on stderr; what it printed."""
    with Program(folder, script, *arguments, **environment) as program:
        return program.end()


def nothing_is_left(program, files, names):
    """Fails if a program that was ended leaves processes, users of its memory, or names."""
    assert soon(lambda: not program.processes()), program.processes()
    assert users_of(files) == [], users_of(files)
    assert soon(lambda: names_left(names) == []), names_left(names)
