"""A queue between processes that passes shared arrays by handle.

What is guaranteed beyond ``multiprocessing.Queue``, on which it stands:

- An object is pickled by `Queue.put`, in the caller: what cannot be pickled raises
  there and leaves the queue usable, later changes to the object are not sent, and
  the producer may drop or close its arrays, or exit, as soon as `put` has returned.
- A shared array that was not put after all (the queue was full) is not kept.
"""

import multiprocessing
import multiprocessing.queues
from queue import Empty, Full

from . import reduction

__all__ = ["Queue", "Empty", "Full"]


class Queue(multiprocessing.queues.Queue):
    """A first-in, first-out queue for many producers and consumers.

    Parameters
    ----------
    maxsize : int
        How many objects it holds; as many as the system allows if 0 or less.
    ctx : multiprocessing context, optional
        Says how processes are started; the default one otherwise.

    The interface is that of ``multiprocessing.Queue``: `put`, `get`, `put_nowait`,
    `get_nowait`, `qsize`, `empty`, `full`, `close`, `join_thread` and
    `cancel_join_thread`; it can be an argument of a ``Process``. Shared arrays,
    also inside other objects, arrive as views of the same memory; ordinary
    arrays and everything else arrive by value.
    """

    def __init__(self, maxsize=0, *, ctx=None):
        super().__init__(maxsize, ctx=multiprocessing.get_context() if ctx is None else ctx)

    def put(self, obj, block=True, timeout=None):
        """Appends an object; waits for room if need be.

        Parameters
        ----------
        obj : object
            Anything that can be pickled.
        block : bool
            Whether to wait for room.
        timeout : float, optional
            How long to wait at most, in seconds.

        Raises
        ------
        Full
            There was no room in time.
        ValueError
            The queue was closed (an AssertionError before Python 3.8).
        Exception
            What pickling raises.
        """
        data, published = reduction.dumps(obj)
        try:
            super().put(data, block, timeout)
        except BaseException:
            # Also what a signal's handler raised, while waiting for room or just after.
            self._take_back(data, published)
            raise

    def _take_back(self, data, published):
        """Undoes a `put` that failed, wherever it was, unless the feeder has `data` already."""
        if not published:
            return
        try:
            # No other entry is equal: each handle that holds something is another.
            self._buffer.remove(data)
        except ValueError:
            pass
        else:
            self._sem.release()
        published.withdraw()

    def get(self, block=True, timeout=None):
        """Removes and returns the oldest object; waits for one if need be.

        Parameters
        ----------
        block : bool
            Whether to wait.
        timeout : float, optional
            How long to wait at most, in seconds.

        Raises
        ------
        Empty
            Nothing came in time.
        StaleHandle, FileNotFoundError
            The object held an array whose memory is gone, or a named array whose name is;
            the object is lost.
        Exception
            What unpickling raises.
        """
        return reduction.loads(super().get(block, timeout))
