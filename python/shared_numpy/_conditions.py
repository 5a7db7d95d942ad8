"""Conditions, events and barriers.

What this module guarantees: waiting is in the core; whoever died is passed over.
"""

import sys
import time
from threading import BrokenBarrierError

from . import _core
from ._cells import Shared
from ._locks import Mutex
from ._locks import RLock

# The whole of a condition in two pages.
_PLACES = 1016


class _Count:
    """A number that ``multiprocessing`` keeps in a semaphore, for who looks at it."""

    def __init__(self, get_value):
        self.get_value = get_value


class Condition(Shared):
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
        elif not isinstance(lock, Mutex):
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
            is acquired all the same, and its release refuses others as before.
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
        self._cell.notify(min(max(n, 0), sys.maxsize))

    def notify_all(self):
        """Wakes all who wait."""
        self.notify(sys.maxsize)


class Event(Shared):
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


class Barrier(Shared):
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
