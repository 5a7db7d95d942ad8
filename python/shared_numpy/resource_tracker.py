"""What ``multiprocessing.resource_tracker`` offers, over the tracker of this package.

One tracker serves the whole tree of processes, for segments, semaphores and
arrays. It is a small executable; `_tracker` and ``crates/core/src/tracker`` have
what it guarantees. Unregistering what was never registered here does nothing, so
that code which unregisters a segment after attaching to it (to work around the
standard library's habit of registering it) needs no change.
"""

import os
import sys

from . import _core
from . import _tracker
from ._posixshmem import shm_unlink

__all__ = ["ensure_running", "register", "unregister"]

# The longest message of the standard library's tracker: the limit that its users know.
_MESSAGE_MAX = 512


def _cleanup_noop(name):
    raise RuntimeError("noop should never be registered or cleaned up")


def _cleanup_dummy(name):
    pass


def _sem_unlink(name):
    # Loaded when needed: it is an extension module of `multiprocessing`.
    from _multiprocessing import sem_unlink
    sem_unlink(name)


# Iterated over by others, who expect exactly the standard library's keys of the same
# version. The tracker itself accepts more.
_CLEANUP_FUNCS = {
    "noop": _cleanup_noop,
    "semaphore": _sem_unlink,
    "shared_memory": shm_unlink,
}
if sys.version_info >= (3, 13):
    _CLEANUP_FUNCS["dummy"] = _cleanup_dummy


class ResourceTracker:
    """A tracker: the program's own (`_resource_tracker`) or a separate one.

    A separate one is a process of its own, which no other process joins; it lives
    until `_stop` is called or the last process that inherited it is gone.

    Other packages make subclasses that start a process themselves, speak the standard
    library's text protocol to it and keep it in `_fd` and `_pid`. They work too.
    """

    # What a subclass has put into `_fd` and `_pid`.
    _given_fd = None
    _given_pid = None

    def __init__(self):
        self._core = _tracker.configured(_core.Tracker())
        self._lock = _reentrant_lock()
        self._exitcode = None

    def _stop(self):
        """Leaves the tracker and waits for its end; its status is `_exitcode`."""
        if self._given_fd is not None:
            fd, pid = self._given_fd, self._given_pid
            self._given_fd = self._given_pid = None
            os.close(fd)
            if pid is not None:
                status = os.waitpid(pid, 0)[1]
                self._exitcode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        elif self._core.fd is not None:
            self._exitcode = self._core.stop()

    def getfd(self):
        """The connection's descriptor, for handing to a child."""
        self.ensure_running()
        fd = self._fd
        return _placeholder() if fd is None else fd

    def ensure_running(self):
        """Starts the tracker unless it runs.

        Warns
        -----
        UserWarning
            It had died, or cannot be started.
        """
        if self._given_fd is None:
            self._hear(self._core.ensure_running(), self.ensure_running)

    def _check_alive(self):
        """Whether there is a connection, and a tracker at its other end."""
        if self._given_fd is None:
            return self._core.check_alive()
        try:
            self._write("PROBE", "0", "noop")
        except OSError:
            return False
        return True

    def register(self, name, rtype):
        """Has a resource cleaned up when the program is gone.

        Parameters
        ----------
        name : str
            As the system knows it, with its leading slash.
        rtype : str
            "shared_memory" or "semaphore".

        Raises
        ------
        ValueError
            An unknown type, or a name that is empty, too long or has a NUL.
        """
        self._send("REGISTER", name, rtype)

    def unregister(self, name, rtype):
        """Takes a resource back; one that was not registered is passed over."""
        self._send("UNREGISTER", name, rtype)

    def _send(self, cmd, name, rtype):
        """Sends a command by its name in the standard library's protocol."""
        if type(self).ensure_running is not ResourceTracker.ensure_running:
            self.ensure_running()
        _check_length(cmd, name, rtype)
        if self._given_fd is not None:
            self._write(cmd, name, rtype)
        elif cmd == "REGISTER":
            self._hear(self._core.register(rtype, name, 0, 0, sys.__stderr__ is not None),
                       lambda: self._send(cmd, name, rtype))
        elif cmd == "UNREGISTER":
            self._hear(self._core.unregister(rtype, name),
                       lambda: self._send(cmd, name, rtype))
        elif cmd != "PROBE":
            raise RuntimeError("unrecognized command {!r}".format(cmd))

    def _write(self, cmd, name, rtype):
        os.write(self._given_fd, "{}:{}:{}\n".format(cmd, name, rtype).encode("ascii"))

    def _hear(self, news, again):
        if news is not None:
            if news[0] in ("launched", "relaunched"):
                self._exitcode = None
            _tracker.hear(self._core, news, again)

    @property
    def _pid(self):
        """The tracker's pid; None when it is another process's child."""
        return self._core.pid if self._given_pid is None else self._given_pid

    @_pid.setter
    def _pid(self, pid):
        self._given_pid = pid

    @property
    def _fd(self):
        """The connection's descriptor; None if there is none."""
        return self._core.fd if self._given_fd is None else self._given_fd

    @_fd.setter
    def _fd(self, fd):
        self._given_fd = fd


class _ProgramsTracker(ResourceTracker):
    """The tracker that the whole program shares."""

    def __init__(self):
        self._core = _core.tracker
        self._lock = _reentrant_lock()
        self._exitcode = None

    def _stop(self):
        if self._core.fd is not None:
            self._exitcode = _tracker.stop()

    def register(self, name, rtype):
        if rtype == "semaphore":
            _tracker.note_semaphore(name)
        self._send("REGISTER", name, rtype)

    def unregister(self, name, rtype):
        _check_length("UNREGISTER", name, rtype)
        removed = not _exists(name, rtype)
        if rtype == "semaphore":
            known = _tracker.forget_semaphore(name)
        else:
            known = not removed
        if removed:
            # Whoever registered it, there is nothing to clean up.
            _tracker.gone(rtype, name)
        else:
            self._send("UNREGISTER", name, rtype)
        if not known:
            _tracker.forget_elsewhere(rtype, name)

    # `multiprocessing` assigns in a child what it got from the parent: a connection
    # to join over, or the standard library's pipe, which is no business of ours.
    @property
    def _fd(self):
        return self._core.fd

    @_fd.setter
    def _fd(self, fd):
        if fd is not None:
            _tracker.adopt(fd)

    @property
    def _pid(self):
        return self._core.pid

    @_pid.setter
    def _pid(self, pid):
        pass


def _exists(name, rtype):
    """Whether the system has such a resource; True where that is hard to tell."""
    if rtype == "shared_memory":
        path = "/dev/shm/" + name.lstrip("/")
    elif rtype == "semaphore":
        path = "/dev/shm/sem." + name.lstrip("/")
    else:
        return True
    try:
        os.stat(path)
    except FileNotFoundError:
        return not sys.platform.startswith("linux")
    except (OSError, ValueError):
        pass
    return True


def _check_length(cmd, name, rtype):
    if len(cmd) + len(name) + len(rtype) + len("::\n") > _MESSAGE_MAX:
        raise ValueError("name too long")


def _reentrant_lock():
    """A reentrant lock, for code that expects one; nothing here needs it."""
    from _thread import RLock
    return RLock()


_null = None


def _placeholder():
    """A descriptor for `multiprocessing` to pass to its children: there must be one."""
    global _null
    if _null is None:
        _null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    return _null


_resource_tracker = _ProgramsTracker()
ensure_running = _resource_tracker.ensure_running
register = _resource_tracker.register
unregister = _resource_tracker.unregister
getfd = _resource_tracker.getfd


def main(fd):
    """Where the standard library's tracker process begins; ours is no Python program.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError("the resource tracker is {}".format(_tracker.executable()))
