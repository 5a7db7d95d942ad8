"""How arrays travel: a handle instead of the bytes.

A handle says which block of memory, the place and shape of the view in it, and the
dtype. ``multiprocessing``'s own pickler (queues, pipes, pools, executors, process
arguments) gets handles, and so do those of ``loky`` and ``joblib``; plain ``pickle``
gets values (`SharedNDArray.__reduce_ex__`).

What is guaranteed:

- A handle never leads to memory outside the array it was made for: it is checked
  when it is made and again when it is opened.
- What a queue of ours takes along it holds itself: it is let go of with the queue, or when
  it was not put after all. Other pickles' handles expire with their sender.
"""

import copyreg
import io
import pickle
import sys
from multiprocessing.reduction import ForkingPickler

from . import _core
from . import _family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List  # noqa: F401

__all__ = ["dumps_for_queue", "register", "register_reducer"]

# The classes that are sent by handle.
_classes = []  # type: List[type]
# Reducers for multiprocessing's pickler -> those that our queues use in their place.
_in_queue = {}  # type: Dict[Callable[..., Any], Callable[..., Any]]
# Whose picklers lead to worker processes and are not multiprocessing's. They are never
# imported here; the first two let us register reducers, of the last we see the calls.
_LOKY = ("loky.backend.reduction", "joblib.externals.loky.backend.reduction")
_WORKERS = _LOKY + ("joblib.pool",)
# What may stand between them and a `__reduce_ex__`.
_PICKLERS = ("pickle", "cloudpickle", "joblib.externals.cloudpickle")


def dumps_for_queue(obj):
    """Pickles `obj` for a queue of ours, which `_core` has opened: shared memory goes beside the pickle.

    Returns
    -------
    bytes

    Raises
    ------
    Exception
        What pickling raises.
    """
    # One that another thread, or a put inside this one, uses is not there.
    try:
        pickler = _free.pop()
    except IndexError:
        pickler = _QueuePickler(io.BytesIO())
    pickler.dump(obj)  # one that failed is not used again
    data = pickler.take()
    _free.append(pickler)
    return data


class _QueuePickler(pickle.Pickler):
    """A pickler for one object after the other."""

    def __init__(self, buffer):
        self._buffer = buffer
        if _PROTOCOL < 5:
            super().__init__(buffer, _PROTOCOL)
        else:
            super().__init__(buffer, _PROTOCOL, buffer_callback=_keep_in_band)
        self.dispatch_table = _queue_table

    def take(self):
        """The pickle; nothing of it stays."""
        data = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        self.clear_memo()
        return data


class _QueueTable(dict):
    """How objects are reduced: arrays by what is in this dictionary, which is quick; others as
    ``multiprocessing`` and ``copyreg`` say at the time."""

    def __missing__(self, cls):
        # A program without arrays does not load NumPy.
        if cls.__name__ in _ARRAYS and cls in _arrays().KINDS:
            for kind in _arrays().KINDS:
                self[kind] = _core.queue_reduce
            return _core.queue_reduce
        known = ForkingPickler._extra_reducers.get(cls)
        if known is None:
            return copyreg.dispatch_table[cls]  # KeyError: reduced as the class says
        return _in_queue.get(known, known)


# What the classes in `arrays.KINDS` are called.
_ARRAYS = ("ndarray", "SharedNDArray")
_queue_table = _QueueTable()
# Picklers that nobody uses at the moment.
_free = []  # type: List[_QueuePickler]
_PROTOCOL = min(pickle.HIGHEST_PROTOCOL, 5)
# Smaller buffers stay in the pickle, in bytes.
_BLOCK_MIN = 16 << 10


def _keep_in_band(buffer):
    """Whether a buffer of a pickle is to stay in it; if not, it goes along in a block."""
    try:
        raw = buffer.raw()
    except BufferError:
        return True  # in pieces; pickle knows what to do, or says so
    with raw:
        if raw.nbytes < _BLOCK_MIN:
            return True
        block = _core.block_create(raw.nbytes, False)
        with memoryview(block) as view:
            view[:] = raw
        _core.queue_add_buffer(block, raw.nbytes)
    return False


def reduce_in_queue(a):
    """As a queue's pickler wants arrays that `_core` does not write by itself."""
    cls = type(a)
    arrays = _arrays()
    if cls is arrays.np.ndarray:
        # NumPy's own pickles may turn the bytes of other machines round.
        if a.nbytes < _BLOCK_MIN and a.dtype.isnative or arrays._has_pointers(a.dtype):
            return a.__reduce_ex__(_PROTOCOL)
        a, writeable = arrays.array(a), True
    else:
        writeable = a.flags.writeable
    place = _core.queue_place(a)
    if place is None:
        return _reduce_elsewhere(a, reduce_in_queue)
    return _open_place, (place, _short(a.dtype), writeable, None if cls is arrays.SharedNDArray else cls)


def copy_array(a):
    """A shared array that is a copy of `a`."""
    return _arrays().array(a)


def _open_place(place, dtype, writeable, cls):
    """The array that a queue brought in a block.

    Raises
    ------
    ValueError, TypeError
        The place does not fit the memory, or its dtype holds objects.
    """
    dtype = _arrays().np.dtype(dtype)
    return _view(_core.queue_open_place(place, dtype.itemsize), dtype, writeable, cls)


def register(cls):
    """Lets ``multiprocessing`` and ``loky`` send objects of exactly the class `cls` by handle."""
    register_reducer(cls, _reduce, reduce_in_queue)
    _classes.append(cls)
    _register_with_loky()


def register_reducer(cls, reduce, in_queue):
    """Lets ``multiprocessing`` send objects of exactly the class `cls` as `reduce` says, and our queues
    as `in_queue` does."""
    ForkingPickler.register(cls, reduce)
    _in_queue[reduce] = in_queue


def _register_with_loky():
    """Registers our classes with those of loky's modules that are loaded; whether one is."""
    loaded = [module for module in map(sys.modules.get, _WORKERS) if module is not None]
    for module in loaded:
        # One that is being imported has no `register` yet: the next call finds it.
        if module.__name__ in _LOKY and hasattr(module, "register"):
            for cls in _classes:
                module.register(cls, _reduce)
    return bool(loaded)


def reduce_for_worker(a):
    """The handle of `a` if a pickler of loky's or joblib's has called `a.__reduce_ex__`; else None.

    They may be imported later than this module, and do not ask multiprocessing's table.
    From their next pickler on loky's have our entry in their own.
    """
    if not _register_with_loky():
        return None
    frame = sys._getframe(2)  # the caller of `__reduce_ex__`
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module in _WORKERS:
            return _reduce(a)
        if module not in _PICKLERS and not module.startswith(tuple(each + "." for each in _PICKLERS)):
            return None
        frame = frame.f_back
    return None


def _reduce(a):
    """The handle of `a`, as a pickler wants it."""
    handle = _core.array_send(a)
    if handle is None:
        return _reduce_elsewhere(a, _reduce)
    _family.export()
    cls = type(a)
    return _open, (handle, _short(a.dtype), a.flags.writeable,
                   None if cls is _arrays().SharedNDArray else cls)


def _reduce_elsewhere(a, reduce):
    """The handle of an array in a named array, or what is sent for want of one."""
    if _core.named_place(a, a.dtype.itemsize) is None:
        return a.__reduce_ex__(4)  # an object of a user's class with private memory
    from . import named
    return named.reduce(a) or reduce(_copy(a))  # its name may be gone, the memory is not


def _copy(a):
    copied = _arrays().array(a)
    if not a.flags.writeable:
        copied.flags.writeable = False
    return copied if type(a) is type(copied) else copied.view(type(a))


def _arrays():
    # Not imported above: it takes NumPy, and the two modules need each other.
    name = __package__ + ".arrays"
    if name not in sys.modules:
        __import__(name)  # a handle is the first that this process sees of arrays
    return sys.modules[name]


def _short(dtype):
    """The dtype, or the text that says the same and is pickled in a third of the time."""
    if dtype.names is None and dtype.metadata is None and dtype.isnative and dtype.num < 21:
        return dtype.str
    return dtype


def _open(handle, dtype, writeable, cls):
    """The array that a handle leads to, in this process.

    Raises
    ------
    StaleHandle
        The array's memory was given back before this handle arrived.
    ForeignHandle
        The handle was made by a program that this process does not belong to.
    ValueError, TypeError
        The handle does not fit the memory, or its dtype holds objects.
    """
    dtype = _arrays().np.dtype(dtype)
    return _view(_family.open_array(handle, dtype.itemsize), dtype, writeable, cls)


def _view(opened, dtype, writeable, cls):
    """The array in memory that `_core` has opened."""
    arrays = _arrays()
    arrays._refuse_pointers(dtype)
    memory, offset, shape, strides = opened
    result = arrays.np.ndarray.__new__(cls or arrays.SharedNDArray, shape, dtype, memory, offset, strides)
    if not writeable:
        result.flags.writeable = False
    return result
