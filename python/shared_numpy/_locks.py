"""Locks and semaphores; the core does the work, and ``_core.SemLock`` is their base.

What this module guarantees: acquire and release are methods in C, of each class its own, and no
object here sets attributes: so CPython calls them as fast as its own.
"""

import threading
from multiprocessing import process

from . import _core
from ._cells import Shared

TYPE_CHECKING = False

AbandonedLock = _core.AbandonedLock

_LOCK, _RLOCK, _SEMAPHORE, _BOUNDED = range(4)


def _has_methods(cls):
    """Class decorator: gives it the methods in C."""
    _core.lock_methods(cls)
    return cls


@_has_methods
class SemLock(_core.SemLock, Shared):
    """What locks and semaphores have in common; the rest is in C.

    They set no attributes: in an object whose dictionary is empty CPython finds methods
    faster.
    """

    _kind = -1

    if TYPE_CHECKING:
        def acquire(self, block=True, timeout=None):
            """Acquires; whether it could in time."""
            return True

        def release(self):
            """Releases."""

        def __enter__(self):
            return True

        def __exit__(self, *args):
            pass

    def _details(self):
        return self._raises

    def _restore(self, handle, raises):
        self._open(handle, self._kind, raises)

    @property
    def _semlock(self):
        """Where ``multiprocessing`` has `_is_mine`, `_count` and `_get_value`."""
        return self

    def locked(self):
        """Whether no unit is left, so that `acquire` would wait."""
        return self._is_zero()

    def _owner(self):
        """Who has it, and how often, in the words of ``multiprocessing``."""
        if self._is_mine():
            name = process.current_process().name
            if threading.current_thread() is not threading.main_thread():
                name += "|" + threading.current_thread().name
            return name, self._count()
        if self._get_value() == 1:
            return "None", 0
        return ("SomeOtherThread" if self._count() else "SomeOtherProcess"), "nonzero"


class Mutex(SemLock):
    def __init__(self, on_abandoned="continue"):
        if on_abandoned not in ("continue", "raise"):
            raise ValueError('on_abandoned is "continue" or "raise", not {!r}'.format(on_abandoned))
        self._make(self._kind, 1, on_abandoned == "raise")

    @property
    def abandoned(self):
        """Whether a process died that had the lock, and nobody has released it since."""
        return self._is_abandoned()

    def acquire_abandoned(self, block=True, timeout=None):
        """As `acquire`, but never raises `AbandonedLock`: to put things right."""
        return self._acquire_abandoned(block, timeout)


@_has_methods
class Lock(Mutex):
    """A lock; whoever releases it need not be who acquired it.

    Parameters
    ----------
    on_abandoned : {"continue", "raise"}
        What `acquire` does when the process that had the lock died. Either way the lock
        can be had. With "continue" it is acquired, and `abandoned` says so until it is
        released. With "raise" `acquire` raises `AbandonedLock` and the lock is not
        acquired. So it goes on, in every process, until somebody has put right what the
        lock guards: acquired it with `acquire_abandoned`, which does not raise, and
        released it.

    `acquire(block=True, timeout=None)` returns whether the lock was acquired; `release()`
    raises ValueError when it is free.
    """

    _kind = _LOCK

    def __repr__(self):
        return "<{}(owner={})>".format(type(self).__name__, self._owner()[0])


@_has_methods
class RLock(Mutex):
    """A lock that the thread which has it may acquire again.

    It is free when it was released as often. `release` raises AssertionError in any
    other thread. The parameter is that of `Lock`.
    """

    _kind = _RLOCK

    def __repr__(self):
        return "<{}({}, {})>".format(*((type(self).__name__,) + self._owner()))


@_has_methods
class Semaphore(SemLock):
    """A number of units to be acquired and released, by anybody.

    A unit that a process had acquired when it died stays acquired; `BoundedSemaphore`
    gives it to the next one.
    """

    _kind = _SEMAPHORE

    def __init__(self, value=1):
        self._make(self._kind, value)

    def get_value(self):
        """How many units are left."""
        return self._get_value()

    def __repr__(self):
        return "<{}(value={})>".format(type(self).__name__, self.get_value())


@_has_methods
class BoundedSemaphore(Semaphore):
    """A semaphore with never more units than at first.

    `release` raises ValueError when none is acquired. A unit that a process had when it
    died goes to the next one that wants it. Of more than 65536 units so many can be
    acquired at a time; `acquire` raises RuntimeError beyond.
    """

    _kind = _BOUNDED

    def __repr__(self):
        return "<{}(value={}, maxvalue={})>".format(
            type(self).__name__, self.get_value(), self._bound)
