"""A channel whose readers get the newest frame: for cameras, telemetry, state.

What is guaranteed:

- A frame is seen whole or not at all, and does not change while anybody has it.
- The writer waits for no reader, however many there are and whatever they do.
- Readers copy nothing; a frame that is kept stays valid when newer ones come, when the
  writer ends, and when the channel is gone.
- A writer that dies leaves its newest frame, and another process may take its place.
"""

import contextlib
from multiprocessing import util

import numpy as np

from . import _core
from . import arrays
from . import reduction
from ._cells import Shared, generic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional  # noqa: F401

__all__ = ["Latest", "PeerDied"]

PeerDied = _core.PeerDied


class Latest(Shared):
    """One writer, any number of readers, each of which gets the newest frame.

    Parameters
    ----------
    shape : int or sequence of int
        The shape of each frame.
    dtype : dtype
        Anything but Python objects; float by default.

    The writer fills `next_frame` and gives it to `publish`, or gives `publish` any array,
    which is copied. Readers call `read`, `read_next` or `wait`, or iterate. All of it can be
    done by each process that has the channel, which can be sent at any time by
    ``multiprocessing``'s pickler; only that no two processes write at the same time.

    The four newest frames are kept, besides those that somebody has.
    """

    __class_getitem__ = generic

    def __init__(self, shape, dtype=float):
        shape, dtype = arrays._whole(shape, dtype)
        self._bind(shape, dtype, lambda nbytes: _core.LatestCell(nbytes))

    def _bind(self, shape, dtype, make):
        nbytes = arrays._nbytes(shape, dtype, "a frame")
        self._shape = shape
        self._dtype = dtype
        self._cell = make(nbytes)
        self._last = 0
        self._end = None  # type: Optional[util.Finalize]

    def _details(self):
        return self._shape, reduction._short(self._dtype)

    def _restore(self, handle, details):
        shape, dtype = details
        self._bind(tuple(shape), np.dtype(dtype), lambda nbytes: _core.LatestCell.open(handle, nbytes))

    @property
    def shape(self):
        """The shape of each frame."""
        return self._shape

    @property
    def dtype(self):
        """The dtype of each frame."""
        return self._dtype

    @property
    def number(self):
        """The number of the newest frame: 1 for the first one, and so on; 0 when there is none yet."""
        return self._cell.number

    @property
    def last_read(self):
        """The number of the frame that this object's `read` or `read_next` returned last; 0 before."""
        return self._last

    @property
    def has_writer(self):
        """Whether a process has become the writer that lives and has not stopped."""
        return self._cell.has_writer

    def __repr__(self):
        return "<{}(shape={}, dtype={}, number={})>".format(
            type(self).__name__, self._shape, self._dtype, self.number)

    # -- the writer -------------------------------------------------------------------

    def become_writer(self):
        """Makes this process the writer, if it is not; `publish` does so too.

        It is until it calls `stop_writing`, drops this object, or ends.

        Raises
        ------
        RuntimeError
            Another process is, and lives.
        """
        if self._cell.become_writer():
            self._forget_end()
            # At exit too: readers learn that the writer has ended, and not that it died.
            self._end = util.Finalize(self, self._cell.stop_writing, exitpriority=0)

    def stop_writing(self):
        """Ends being the writer, so that another process can be; does nothing if this one is not."""
        self._forget_end()
        self._cell.stop_writing()

    def _forget_end(self):
        end, self._end = self._end, None
        if end is not None:
            end.cancel()

    @contextlib.contextmanager
    def writing(self):
        """A context in which this process is the writer; gives this object."""
        self.become_writer()
        try:
            yield self
        finally:
            self.stop_writing()

    def next_frame(self):
        """A new array to be filled and given to `publish`; its bytes are whatever was there.

        Several may be out at a time. One that is not published is dropped like any array.
        """
        frame = arrays.empty(self._shape, self._dtype)
        self._cell.issue(frame)
        return frame

    def publish(self, frame):
        """Makes a frame the newest one, and wakes those that wait for it.

        Parameters
        ----------
        frame : array_like
            What `next_frame` returned, which is passed on as it is and read-only from now
            on: to write to it raises ValueError. (Not so for views that were made before; do
            not keep any.) Anything else is copied: an array of the channel's shape and
            dtype, or what numpy makes one of, such as a list.

        Returns
        -------
        int
            The frame's number.

        Raises
        ------
        ValueError, TypeError
            The shape, or the dtype, is not the channel's; nothing is published.
        RuntimeError
            Another process is the writer, and lives.
        MemoryError, OSError
            There is no more shared memory for a copy.
        """
        cell = self._cell
        if not cell.is_issued(frame):
            frame = self._copy(frame)
        number = cell.publish(frame)
        while number is None:
            self.become_writer()
            number = cell.publish(frame)
        return number

    def _copy(self, given):
        if type(given) is not np.ndarray:
            given = arrays._plain(given, self._dtype)
        if given.shape != self._shape:
            raise ValueError("a frame of this channel has the shape {}, not {}".format(
                self._shape, given.shape))
        # "equiv": the order of bytes may differ.
        if given.dtype != self._dtype and not np.can_cast(given.dtype, self._dtype, "equiv"):
            raise TypeError("a frame of this channel has the dtype {}, not {}: convert it by "
                            "astype()".format(self._dtype, given.dtype))
        frame = arrays.empty(self._shape, self._dtype)
        frame[...] = given
        return frame

    # -- readers ----------------------------------------------------------------------

    def read(self):
        """The newest frame, a read-only array, or None when there is none yet; never waits."""
        found = self._cell.read(0)
        return None if found is None else self._remembered(found)

    def read_next(self, timeout=None):
        """The newest frame, waited for if this object's `read` or `read_next` returned it before.

        Frames that came and went meanwhile are passed over: `last_read` tells.

        Parameters
        ----------
        timeout : float, optional
            How long to wait at most, in seconds; for ever by default.

        Raises
        ------
        TimeoutError
            None came in time.
        PeerDied
            The writer has died, and nobody took its place. (An EOFError.)
        EOFError
            The writer has ended, or stopped, and nobody took its place for a fifth of a
            second or more. With another writer there are frames again.
        """
        last = self._last
        found = self._cell.wait(last, timeout)
        if found is None:
            raise _timed_out(last, timeout)
        return self._remembered(found)

    def wait(self, after=0, timeout=None):
        """The newest frame if it is newer than number `after`, waited for; ``(number, frame)``.

        As `read_next`, but remembers nothing: for threads that share this object.
        """
        found = self._cell.wait(after, timeout)
        if found is None:
            raise _timed_out(after, timeout)
        number, memory = found
        return number, self._frame(memory)

    def __iter__(self):
        """Frames by `read_next`, until the writer has ended; PeerDied if it died."""
        while True:
            try:
                frame = self.read_next()
            except PeerDied:
                raise
            except EOFError:
                return
            yield frame

    def _remembered(self, found):
        number, memory = found
        frame = self._frame(memory)
        self._last = number
        return frame

    def _frame(self, memory):
        # Read-only, since its memory is.
        return np.ndarray.__new__(arrays.SharedNDArray, self._shape, self._dtype, memory)


def _timed_out(after, timeout):
    return TimeoutError("no frame that is newer than number {} came within {} seconds".format(
        after, timeout))


