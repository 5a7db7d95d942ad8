"""How arrays travel: a handle instead of the bytes.

A handle is the segment's name, the place and shape of the view in it, and the
dtype. ``multiprocessing``'s own pickler (queues, pipes, pools, executors, process
arguments) gets handles; plain ``pickle`` gets values (`SharedNDArray.__reduce_ex__`).

What is guaranteed:

- A handle never leads to memory outside the array it was made for: it is checked
  when it is made and again when it is opened.
- What nobody was told of is not kept: a handle that was made and then not sent
  (the queue was full) can be taken back with `Published.withdraw`.
"""

import errno
import sys
import threading
from multiprocessing.reduction import ForkingPickler

import numpy as np

from . import _core
from . import _tracker

__all__ = ["dumps", "loads", "register", "Published"]

_collecting = threading.local()


class Published:
    """The segments whose names went into one pickle."""

    __slots__ = ("_segments",)

    def __init__(self):
        self._segments = []

    def withdraw(self):
        """Declares that the pickle reached nobody and never will."""
        while self._segments:
            self._segments.pop().withdraw()


def dumps(obj):
    """Pickles `obj` with arrays by handle.

    Returns
    -------
    tuple of (bytes, Published)

    Raises
    ------
    Exception
        What pickling raises; nothing is published then.
    """
    before = getattr(_collecting, "published", None)
    published = _collecting.published = Published()
    try:
        return bytes(ForkingPickler.dumps(obj)), published
    except BaseException:
        published.withdraw()
        raise
    finally:
        _collecting.published = before


def loads(data):
    """Unpickles what `dumps` made; raises what unpickling raises."""
    return ForkingPickler.loads(data)


def register(cls):
    """Lets ``multiprocessing`` send objects of exactly the class `cls` by handle."""
    ForkingPickler.register(cls, _reduce)


def _reduce(a):
    """The handle of `a`, as a pickler wants it."""
    dtype = a.dtype
    place = _core.array_place(a, dtype.itemsize)
    if place is None:
        return a.__reduce_ex__(4)  # an object of a user's class with private memory
    segment, offset = place
    if not segment.publish():
        # The name is gone (`unlink`, or its creator dropped it after a fork), the
        # memory is not: what is sent is a copy.
        return _reduce(_copy(a))
    published = getattr(_collecting, "published", None)
    if published is not None:
        published._segments.append(segment)
    cls = type(a)
    return _open, (segment.name, offset, a.shape, a.strides, _short(dtype),
                   a.flags.writeable, None if cls is _arrays().SharedNDArray else cls)


def _arrays():
    # Not imported above: the two modules need each other. Not `from . import array`:
    # that is the package's function of this name.
    name = __package__ + ".array"
    if name not in sys.modules:
        __import__(name)  # a handle is the first that this process sees of arrays
    return sys.modules[name]


def _copy(a):
    copied = _arrays().array(a)
    if not a.flags.writeable:
        copied.flags.writeable = False
    return copied if type(a) is type(copied) else copied.view(type(a))


def _short(dtype):
    """The dtype, or the text that says the same and is pickled in a third of the time."""
    if dtype.names is None and dtype.metadata is None and dtype.isnative and dtype.num < 21:
        return dtype.str
    return dtype


def _open(name, offset, shape, strides, dtype, writeable, cls):
    """The array that a handle leads to, in this process.

    Raises
    ------
    FileNotFoundError
        The array's memory was given back before this handle arrived.
    ValueError, TypeError
        The handle does not fit the segment, or its dtype holds objects.
    """
    arrays = _arrays()
    dtype = np.dtype(dtype)
    arrays._refuse_pointers(dtype)
    axes = list(zip(shape, strides))
    if len(axes) != len(shape) or len(axes) != len(strides):
        raise ValueError("a handle with {} lengths and {} strides".format(
            len(shape), len(strides)))
    _tracker.come()
    try:
        memory = _core.array_attach(name, offset, axes, dtype.itemsize)
    except FileNotFoundError:
        raise FileNotFoundError(
            errno.ENOENT,
            "the shared array is gone: it was unlinked, or its program ended, before this "
            "handle was received; call unlink() only after the last receiver has got the "
            "array, or send a copy (np.array(a))", name) from None
    result = np.ndarray.__new__(cls or arrays.SharedNDArray, shape, dtype, memory, offset, strides)
    if not writeable:
        result.flags.writeable = False
    return result
