"""Managers of shared memory: `SharedMemoryManager`, on every version alike.

All public names of ``multiprocessing.managers`` can be had from here too. What is
guaranteed beyond the newest standard library's manager:

- its server ignores Ctrl-C, and ends when the process that started it is dead,
  instead of holding its segments for ever;
- at its shutdown every segment goes, also when some were unlinked by hand before;
- ``shutdown_timeout`` works on Python 3.6 to 3.10 too.
"""

import os
import signal
import threading
from multiprocessing import ProcessError, managers as _standard, process, util
from multiprocessing.managers import BaseManager, Server, State, dispatch

from . import _finder
from . import _tracker
from ._posixshmem import shm_unlink
from .shared_memory import ShareableList, SharedMemory

__all__ = ["SharedMemoryManager", "SharedMemoryServer"] + [
    name for name in _standard.__all__ if name != "SharedMemoryManager"]

# How often a server looks whether its owner lives, in seconds.
_OWNER_CHECK_S = 1.0

_OURS = ("SharedMemoryManager", "SharedMemoryServer", "_SharedMemoryTracker")

for _name, _value in vars(_standard).items():
    if not _name.startswith("_") and _name not in _OURS:
        globals().setdefault(_name, _value)
del _name, _value

# BaseManager takes it from 3.11 on.
_BASE_HAS_TIMEOUT = "shutdown_timeout" in BaseManager.__init__.__code__.co_varnames


class _SharedMemoryTracker:
    """The segments of one manager: their names, and how they go.

    Parameters
    ----------
    name : str
        What to call the collection in messages.
    segment_names : iterable of str
        Names of segments, without a slash.
    """

    def __init__(self, name, segment_names=()):
        self.shared_memory_context_name = name
        self.segment_names = list(segment_names)
        self._owner = os.getpid()

    def register_segment(self, segment_name):
        """Adds a segment."""
        util.debug("register segment %r in pid %d", segment_name, os.getpid())
        self.segment_names.append(segment_name)

    def destroy_segment(self, segment_name):
        """Unlinks a segment and forgets it.

        Raises
        ------
        ValueError
            There is none of that name here.
        FileNotFoundError
            It has been unlinked by somebody else; it is forgotten all the same.
        """
        util.debug("destroy segment %r in pid %d", segment_name, os.getpid())
        self.segment_names.remove(segment_name)
        path = "/" + segment_name.lstrip("/")
        try:
            shm_unlink(path)
        finally:
            if not _exists(path):
                _tracker.gone("shared_memory", path)

    def unlink(self):
        """Unlinks every segment, those that are gone already excepted."""
        failure = None
        for segment_name in self.segment_names[:]:
            try:
                self.destroy_segment(segment_name)
            except (FileNotFoundError, ValueError):
                # ValueError: another thread has just done it.
                pass
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure

    def __del__(self):
        # A forked child inherits the object, but not the responsibility.
        if self._owner == os.getpid():
            self.unlink()

    def __getstate__(self):
        return self.shared_memory_context_name, self.segment_names

    def __setstate__(self, state):
        self.__init__(*state)
        # A copy: the original is in charge.
        self._owner = None


def _exists(path):
    return os.path.exists("/dev/shm" + path)


class SharedMemoryServer(Server):
    """The server of a `SharedMemoryManager`: keeps account of segments."""

    public = list(Server.public) + ["track_segment", "release_segment", "list_segments"]

    def __init__(self, *args, **kwargs):
        Server.__init__(self, *args, **kwargs)
        address = self.address
        if isinstance(address, bytes):
            # An abstract socket's name may be any bytes.
            address = os.fsdecode(address)
        self.shared_memory_context = _SharedMemoryTracker(
            "shm_{}_{}".format(address, os.getpid()))
        util.debug("SharedMemoryServer started by pid %d", os.getpid())

    def create(*args, **kwargs):
        """Creates an object for a proxy; returns its id and its methods' names.

        Types whose proxies say so with an attribute ``_shared_memory_proxy`` are
        given the server's segments as ``shared_memory_context``.
        """
        # Without names of our own, which the keywords of the type could repeat.
        self, connection, typeid = args[:3]
        if hasattr(self.registry[typeid][-1], "_shared_memory_proxy"):
            kwargs["shared_memory_context"] = self.shared_memory_context
        return Server.create(self, connection, typeid, *args[3:], **kwargs)

    def shutdown(self, c):
        """Unlinks all segments and ends the server."""
        try:
            self.shared_memory_context.unlink()
        finally:
            Server.shutdown(self, c)

    def track_segment(self, c, segment_name):
        """Takes a segment into account."""
        self.shared_memory_context.register_segment(segment_name)

    def release_segment(self, c, segment_name):
        """Unlinks a segment that `track_segment` was called for."""
        self.shared_memory_context.destroy_segment(segment_name)

    def list_segments(self, c):
        """The names of all segments."""
        return self.shared_memory_context.segment_names

    def accepter(self):
        """Accepts connections, in a thread of its own."""
        if _owner is not None:
            threading.Thread(target=self._watch, args=(_owner,), daemon=True).start()
        Server.accepter(self)

    def _watch(self, owner):
        """Ends the server, with its segments, when the process ``owner`` is dead."""
        born = _start_time(owner)
        while born is not None and _start_time(owner) == born:
            if self.stop_event.wait(_OWNER_CHECK_S):
                return
        util.info("manager's owner %d is gone, shutting down", owner)
        try:
            self.shared_memory_context.unlink()
        finally:
            self.stop_event.set()


# In a server's process that a manager started: the pid of the manager's process.
_owner = None


def _start_time(pid):
    """When a living process began, in clock ticks; None if there is no such process.

    A pid alone may be another process's by now.
    """
    try:
        with open("/proc/{}/stat".format(pid), "rb") as file:
            # The second field is the program's name and may hold anything.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        if os.path.isdir("/proc/self"):
            return None
    else:
        # A zombie is as dead as one that has been waited for.
        return None if fields[0] in (b"Z", b"X") else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return b"unknown"


class SharedMemoryManager(BaseManager):
    """A manager whose segments and lists live until it is shut down.

    Parameters
    ----------
    address, authkey, serializer, ctx
        As for ``multiprocessing.managers.BaseManager``.
    shutdown_timeout : float
        How long `shutdown` waits, in seconds, before it terminates the server.

    Used as a context manager it starts a server, and shuts it down at the end of the
    block: then everything that `SharedMemory` and `ShareableList` returned is
    unlinked. What a process still has mapped stays readable there.
    """

    _Server = SharedMemoryServer

    def __init__(self, address=None, authkey=None, serializer="pickle", ctx=None,
                 *, shutdown_timeout=1.0):
        # Before the server starts, so that it has the same tracker as its owner.
        _tracker.ensure_running()
        timeout = {"shutdown_timeout": shutdown_timeout} if _BASE_HAS_TIMEOUT else {}
        BaseManager.__init__(self, address, authkey, serializer, ctx, **timeout)
        self._shutdown_timeout = shutdown_timeout
        util.debug("%s created by pid %d", type(self).__name__, os.getpid())

    def _require_initial(self):
        state = self._state.value
        if state == State.STARTED:
            raise ProcessError("Already started SharedMemoryServer")
        if state == State.SHUTDOWN:
            raise ProcessError("SharedMemoryManager has shut down")
        if state != State.INITIAL:
            raise ProcessError("Unknown state {!r}".format(state))

    def get_server(self):
        """A server to run in this process, with ``serve_forever()``.

        Raises
        ------
        multiprocessing.ProcessError
            The manager has a server of its own, or had one.
        """
        self._require_initial()
        return self._Server(self._registry, self._address, self._authkey, self._serializer)

    def start(self, initializer=None, initargs=()):
        """Starts the server's process, which calls ``initializer(*initargs)`` first.

        Raises
        ------
        multiprocessing.ProcessError
            It was started before.
        """
        self._require_initial()
        BaseManager.start(self, initializer, initargs)
        if not _BASE_HAS_TIMEOUT:
            # The base class has made a finalizer that knows no timeout.
            self.shutdown.cancel()
            self.shutdown = util.Finalize(
                self, _finalize, args=(
                    self._process, self._address, self._authkey, self._state,
                    self._Client, self._shutdown_timeout),
                exitpriority=0)

    @classmethod
    def _run_server(cls, *args, **kwargs):
        # Runs in the server's process. The owner shuts it down; Ctrl-C, which the
        # terminal sends to both, must not do so before the owner has cleaned up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        global _owner
        _owner = process.current_process()._parent_pid
        super()._run_server(*args, **kwargs)

    def SharedMemory(self, size):
        """A new segment of ``size`` bytes, which the manager unlinks at its shutdown."""
        with self._Client(self._address, authkey=self._authkey) as connection:
            segment = SharedMemory(None, create=True, size=size)
            try:
                dispatch(connection, None, "track_segment", (segment.name,))
            except BaseException:
                segment.close()
                segment.unlink()
                raise
        return segment

    def ShareableList(self, sequence):
        """A new list of the items of ``sequence``, unlinked at the manager's shutdown."""
        with self._Client(self._address, authkey=self._authkey) as connection:
            items = ShareableList(sequence)
            try:
                dispatch(connection, None, "track_segment", (items.shm.name,))
            except BaseException:
                items.shm.close()
                items.shm.unlink()
                raise
        return items


def _finalize(process, address, authkey, state, client, timeout):
    """Shuts a manager's server down: asks, then terminates, then kills."""
    if process.is_alive():
        util.info("sending shutdown message to manager")
        try:
            connection = client(address, authkey=authkey)
            try:
                dispatch(connection, None, "shutdown")
            finally:
                connection.close()
        except Exception:
            # It is asked less politely below.
            pass
        process.join(timeout=timeout)
        if process.is_alive():
            process.terminate()
            process.join(timeout=timeout)
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
    state.value = State.SHUTDOWN
    _standard.BaseProxy._address_to_local.pop(address, None)


_finder.managers_are_ready()
