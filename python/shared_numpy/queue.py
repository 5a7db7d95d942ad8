"""Queues between processes, in shared memory, that pass arrays by handle.

What is guaranteed beyond ``multiprocessing``'s queues:

- When `put` has returned the object is in the queue, whatever becomes of the process that
  put it; what cannot be pickled raises there and leaves the queue usable. There is no
  feeder thread: later changes to the object are not sent, no exit waits for anything.
- `Full`, `Empty` and `qsize` are exact. An object whose consumer dies before it has got it
  goes to the next consumer. Nobody waits for the dead: the locks of a process that was
  killed are taken over, and a wait that nobody is left to end raises `PeerDied`.
- Shared arrays, also inside other objects, arrive as views of the same memory. Other
  arrays, and the buffers of pickles of protocol 5, are copied once, on their way in.
- A queue can be sent at any time by ``multiprocessing``'s pickler, under each start method;
  its memory, and that of what is in it, comes back with the last process that has it.
"""

import atexit
import pickle
from multiprocessing import process, util
from queue import Empty, Full
from types import SimpleNamespace

from . import _core
from . import reduction
from ._cells import Shared, generic

__all__ = ["Queue", "JoinableQueue", "SimpleQueue", "Empty", "Full", "PeerDied"]

PeerDied = _core.PeerDied

_tools = _core.QueueTools(reduction.dumps_for_queue, pickle.loads, reduction.copy_array, Empty, Full)


def _has_methods(cls):
    """Class decorator: gives it `put` and `get` in C."""
    _core.queue_methods(cls)
    return cls


class _Queue(_core.Queue, Shared):
    """What all queues have in common: how they travel and what they are called."""

    __class_getitem__ = generic

    def _details(self):
        return None

    def _restore(self, handle, details):
        self._open(handle, _tools)

    def __repr__(self):
        return "<{}.{} at {:#x}>".format(type(self).__module__, type(self).__qualname__, id(self))


@_has_methods
class Queue(_Queue):
    """A first-in, first-out queue for many producers and consumers.

    Parameters
    ----------
    maxsize : int
        How many objects it holds; as many as memory allows if 0 or less.

    The interface is that of ``multiprocessing.Queue``, with `put_many` and `get_many` for
    batches and `aput` and `aget` for asyncio.
    """

    def __init__(self, maxsize=0):
        self._create(max(maxsize, 0), _tools)

    async def aput(self, obj, timeout=None):
        """As `put`, in an event loop: other tasks run while there is no room.

        Raises
        ------
        Full
            There was no room in `timeout` seconds.
        ValueError, PeerDied, Exception
            As `put`.
        """
        from . import _waiting
        await _waiting.attempts(self, lambda: self.put(obj, False), Full, _core.queue_ring_for_room, timeout)

    async def aget(self, timeout=None):
        """As `get`, in an event loop: other tasks run while there is nothing.

        Raises
        ------
        Empty
            Nothing came in `timeout` seconds.
        ValueError, PeerDied, Exception
            As `get`.
        """
        from . import _waiting
        return await _waiting.attempts(self, lambda: self.get(False), Empty, _core.queue_ring_for_items, timeout)


class JoinableQueue(Queue):
    """A `Queue` that knows when all its objects are done with.

    For each object that was got the consumer calls `task_done`; `join` waits for as many
    calls as there were objects.
    """

    def task_done(self):
        """Tells that one object is done with; ValueError when all are already."""
        self._task_done()

    def join(self, timeout=None):
        """Waits until all objects are done with.

        Parameters
        ----------
        timeout : float, optional
            How long to wait at most, in seconds.

        Returns
        -------
        bool
            Whether they are; False when the time is over.

        Raises
        ------
        PeerDied
            Some are not, and nobody is left who could do what is to be done.
        """
        return self._join(timeout)


@_has_methods
class SimpleQueue(_Queue):
    """A queue without a limit, of which `put`, `get`, `empty` and `close` are all there is
    in ``multiprocessing``'s; ours takes what `Queue` takes.
    """

    def __init__(self):
        self._create(0, _tools)

    def empty(self):
        """Whether it holds nothing; OSError when it is closed in this process."""
        if self._closed:
            raise OSError("the queue is closed in this process")
        return super().empty()

    @property
    def _reader(self):
        # For who asks an end of multiprocessing's pipe whether it is closed.
        return SimpleNamespace(closed=self._closed)

    _writer = _reader


def _leave_at_exit():
    # In children that multiprocessing started, which end without `atexit`'s functions.
    util.Finalize(None, _core.leave_queues, exitpriority=-100)


def _begin_child(_):
    """In a child that multiprocessing forked: it has the queues that it was given to work with,
    themselves or in a list or the like.

    Of others that it inherited it is one of those who have them when it uses them.
    """
    _leave_at_exit()
    # A class of the user's may call anything `_args`, and an error here would be heard by nobody.
    child = vars(process.current_process())
    given = list(child.values())
    for name in ("_args", "_kwargs"):
        given.extend(_elements(child.get(name)))
    for each in given:
        for queue in [each] if _is_queue(each) else _elements(each):
            if _is_queue(queue):
                queue._come()


def _is_queue(given):
    # Not `isinstance`, which asks the object too, and that may raise.
    return issubclass(type(given), _Queue)


def _elements(given):
    if type(given) in (list, tuple, set, frozenset):
        return given
    return given.values() if type(given) is dict else ()


# An exit is no death: who waits in a queue goes on waiting for others.
atexit.register(_core.leave_queues)
_leave_at_exit()
util.register_after_fork(_begin_child, _begin_child)
