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

from threading import BrokenBarrierError

from ._cells import AtomicInt
from ._conditions import Barrier
from ._conditions import Condition
from ._conditions import Event
from ._locks import AbandonedLock
from ._locks import BoundedSemaphore
from ._locks import Lock
from ._locks import RLock
from ._locks import Semaphore

__all__ = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier",
           "AtomicInt", "AbandonedLock", "BrokenBarrierError"]
