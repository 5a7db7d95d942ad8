"""Locks and their kin between processes, with the interface of ``multiprocessing``'s.

What is guaranteed beyond that:

- No wait is endless because a process died: the lock, or the unit of a bounded
  semaphore, that it had goes to the next one, who learns of it (`Lock.abandoned`); a
  notify that it was told goes to another waiter; a barrier that it was inside breaks.
- An object can be sent at any time by ``multiprocessing``'s pickler (arguments of
  processes, queues, pipes), under each start method. Plain ``pickle`` refuses.
- Timeouts are on the monotonic clock; a signal's handler runs during any wait, and
  ends it if it raises.
"""

import sys
import threading
import time
from multiprocessing import context, process
from threading import BrokenBarrierError

from . import _core
from . import _family
from . import reduction

__all__ = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier",
           "AtomicInt", "AbandonedLock", "BrokenBarrierError"]

AbandonedLock = _core.AbandonedLock

_LOCK, _RLOCK, _SEMAPHORE, _BOUNDED = range(4)
# The whole of a condition in two pages.
_PLACES = 1016


class _Shared:
    """An object that is, or has in `_cell`, a cell in ``_core``."""

    def _send(self):
        """A handle, and what takes it back."""
        return self._cell.send()

    def __reduce_ex__(self, protocol):
        # Subclasses, which ForkingPickler does not know; it is they or plain pickle.
        context.assert_spawning(self)
        return _reduce(self)


def _reduce(self, published=None):
    """The object by handle, as a pickler wants it."""
    handle, sent = self._send()
    if published is not None:
        published._sent.append(sent)
    _family.export()
    return _open, (type(self), handle, self._details())


def _open(cls, handle, details):
    """The object that a handle leads to.

    Raises
    ------
    StaleHandle, ForeignHandle, TrackerUnavailable
        As for arrays.
    """
    self = cls.__new__(cls)
    try:
        self._restore(handle, details)
    except _core.UnknownFamily:
        _family.join(handle)
        self._restore(handle, details)
    return self


class _SemLock(_core.SemLock, _Shared):
    """What locks and semaphores have in common; the rest is in C.

    They set no attributes: in an object whose dictionary is empty CPython finds methods
    faster.
    """

    _kind = None  # type: int

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


class _Mutex(_SemLock):
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


class Lock(_Mutex):
    """A lock; whoever releases it need not be who acquired it.

    Parameters
    ----------
    on_abandoned : {"continue", "raise"}
        What `acquire` does when the process that had the lock died. Either way the lock
        can be had. With "continue" it is acquired, and `abandoned` says so until it is
        released. With "raise" `acquire` raises `AbandonedLock` and the lock is not
        acquired, for everybody, until somebody has called `acquire_abandoned` and
        released it.

    `acquire(block=True, timeout=None)` returns whether the lock was acquired; `release()`
    raises ValueError when it is free.
    """

    _kind = _LOCK

    def __repr__(self):
        return "<{}(owner={})>".format(type(self).__name__, self._owner()[0])


class RLock(_Mutex):
    """A lock that the thread which has it may acquire again.

    It is free when it was released as often. `release` raises AssertionError in any
    other thread. The parameter is that of `Lock`.
    """

    _kind = _RLOCK

    def __repr__(self):
        return "<{}({}, {})>".format(*((type(self).__name__,) + self._owner()))


class Semaphore(_SemLock):
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


class BoundedSemaphore(Semaphore):
    """A semaphore with never more units than at first: 1 to 65536.

    `release` raises ValueError when none is acquired. A unit that a process had when it
    died goes to the next one that wants it.
    """

    _kind = _BOUNDED

    def __repr__(self):
        return "<{}(value={}, maxvalue={})>".format(
            type(self).__name__, self.get_value(), self._bound)


class AtomicInt(_Shared):
    """An integer of 64 bits that all processes change without a lock.

    Each method is one step: no other process sees, or does, anything in between.
    """

    def __init__(self, value=0):
        self._cell = _core.IntegerCell(value)

    def _details(self):
        return None

    def _restore(self, handle, _):
        self._cell = _core.IntegerCell.open(handle)

    def load(self):
        """The value."""
        return self._cell.load()

    def store(self, value):
        """Replaces the value."""
        self._cell.store(value)

    def exchange(self, value):
        """Replaces the value; returns the one before."""
        return self._cell.exchange(value)

    def add(self, delta=1):
        """Adds; returns the value after. OverflowError, and nothing added, beyond 64 bits."""
        return self._cell.add(delta)

    def compare_exchange(self, expected, value):
        """Replaces the value if it is `expected`; returns whether it was."""
        return self._cell.compare_exchange(expected, value)

    def __repr__(self):
        return "<{}({})>".format(type(self).__name__, self.load())


class _Count:
    """A number that ``multiprocessing`` keeps in a semaphore, for who looks at it."""

    def __init__(self, get_value):
        self.get_value = get_value


class Condition(_Shared):
    """A condition of things that a lock guards: wait until somebody says it may hold.

    Parameters
    ----------
    lock : Lock or RLock, optional
        A new `RLock` otherwise.

    1016 threads can wait at a time.
    """

    def __init__(self, lock=None):
        if lock is None:
            lock = RLock()
        elif not isinstance(lock, _Mutex):
            raise TypeError("the lock of a condition is a Lock or an RLock of shared_numpy, "
                            "not {!r}".format(lock))
        self._bind(lock, _core.ConditionCell(_PLACES))

    def _bind(self, lock, cell):
        self._lock = lock
        self._cell = cell

    def _details(self):
        return self._lock

    def _restore(self, handle, lock):
        self._bind(lock, _core.ConditionCell.open(handle))

    def acquire(self, block=True, timeout=None):
        """Acquires the lock."""
        return self._lock.acquire(block, timeout)

    def release(self):
        """Releases the lock."""
        self._lock.release()

    def __enter__(self):
        return self._lock.__enter__()

    def __exit__(self, *args):
        return self._lock.__exit__(*args)

    def __repr__(self):
        return "<{}({}, {})>".format(type(self).__name__, self._lock, self._cell.waiting())

    @property
    def _sleeping_count(self):
        return _Count(self._cell.waiting)

    @property
    def _woken_count(self):
        return _Count(int)

    _wait_semaphore = _woken_count

    def wait(self, timeout=None):
        """Releases the lock, waits for a notify, acquires the lock; returns whether notified.

        Raises
        ------
        AssertionError
            The calling thread has not acquired the lock.
        AbandonedLock
            Its lock was made with ``on_abandoned="raise"``, and was abandoned meanwhile. It
            is acquired all the same.
        """
        if not self._lock._is_mine():
            raise AssertionError("must acquire() condition before using wait()")
        return self._cell.wait(self._lock, timeout)

    def wait_for(self, predicate, timeout=None):
        """Waits until `predicate()` is true; returns its last value."""
        end = None if timeout is None else time.monotonic() + timeout
        result = predicate()
        while not result:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n=1):
        """Wakes up to `n` of those who wait. AssertionError without the lock."""
        if not self._lock._is_mine():
            raise AssertionError("lock is not owned")
        self._cell.notify(n)

    def notify_all(self):
        """Wakes all who wait."""
        self.notify(sys.maxsize)


class Event(_Shared):
    """A flag to wait for."""

    def __init__(self):
        self._cell = _core.EventCell()

    def _details(self):
        return None

    def _restore(self, handle, _):
        self._cell = _core.EventCell.open(handle)

    def is_set(self):
        """Whether it is set."""
        return self._cell.is_set()

    def set(self):
        """Sets it, and wakes all who wait."""
        self._cell.set()

    def clear(self):
        """Clears it."""
        self._cell.clear()

    def wait(self, timeout=None):
        """Waits until it is set; returns whether it was in time."""
        return self._cell.wait(timeout)

    def __repr__(self):
        return "<{} at {:#x} {}>".format(
            type(self).__qualname__, id(self), "set" if self.is_set() else "unset")


class Barrier(_Shared):
    """A number of parties that wait for one another.

    Parameters
    ----------
    parties : int
        How many: 1 to 65536.
    action : callable, optional
        Called by one of them when all have arrived, before any goes on.
    timeout : float, optional
        How long `wait` waits unless it is told.
    """

    def __init__(self, parties, action=None, timeout=None):
        if parties < 1:
            raise ValueError("parties must be > 0")
        self._cell = _core.BarrierCell(parties)
        self._action = action
        self._timeout = timeout

    def _details(self):
        return self._action, self._timeout

    def _restore(self, handle, details):
        self._action, self._timeout = details
        self._cell = _core.BarrierCell.open(handle)

    def wait(self, timeout=None):
        """Waits for the other parties; returns how many were there before.

        Raises
        ------
        BrokenBarrierError
            The barrier is broken, by a timeout, `abort`, `reset`, an action that failed, or
            a party that died in it.
        """
        index = self._cell.wait(self._timeout if timeout is None else timeout, self._action)
        if index is None:
            raise BrokenBarrierError
        return index

    def reset(self):
        """Makes it new; it breaks for those who wait."""
        self._cell.reset()

    def abort(self):
        """Breaks it, until `reset`."""
        self._cell.abort()

    @property
    def parties(self):
        """How many it takes."""
        return self._cell.parties

    @property
    def n_waiting(self):
        """How many wait."""
        return self._cell.waiting

    @property
    def broken(self):
        """Whether it is broken."""
        return self._cell.broken

    def __repr__(self):
        state = "broken" if self.broken else "waiters={}/{}".format(self.n_waiting, self.parties)
        return "<{} at {:#x}: {}>".format(type(self).__qualname__, id(self), state)


for _class in (Lock, RLock, Semaphore, BoundedSemaphore):
    _core.lock_methods(_class)
for _class in (Lock, RLock, Semaphore, BoundedSemaphore, Condition, Event, Barrier, AtomicInt):
    reduction.register_reducer(_class, _reduce)
del _class
