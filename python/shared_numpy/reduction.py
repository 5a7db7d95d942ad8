"""How arrays travel: a handle instead of the bytes.

A handle says which block of memory, the place and shape of the view in it, and the
dtype. ``multiprocessing``'s own pickler (queues, pipes, pools, executors, process
arguments) gets handles, and so do those of ``loky`` and ``joblib``; plain ``pickle``
gets values (`SharedNDArray.__reduce_ex__`).

What is guaranteed:

- A handle never leads to memory outside the array it was made for: it is checked
  when it is made and again when it is opened.
- What nobody was told of is not kept: a handle that was made and then not sent
  (the queue was full) can be taken back with `Published.withdraw`.
"""

import io
import sys
from multiprocessing.reduction import ForkingPickler

import numpy as np

from . import _core
from . import _family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List  # noqa: F401

__all__ = ["dumps", "loads", "register", "Published"]

# The classes that are sent by handle.
_classes = []  # type: List[type]
# Reducers of other objects than arrays that take a `Published`.
_reducers = []  # type: List[Callable[..., Any]]
# Whose picklers lead to worker processes and are not multiprocessing's. They are never
# imported here; the first two let us register reducers, of the last we see the calls.
_LOKY = ("loky.backend.reduction", "joblib.externals.loky.backend.reduction")
_WORKERS = _LOKY + ("joblib.pool",)
# What may stand between them and a `__reduce_ex__`.
_PICKLERS = ("pickle", "cloudpickle", "joblib.externals.cloudpickle")


class Published:
    """What the handles in one pickle hold."""

    __slots__ = ("_sent",)

    def __init__(self):
        self._sent = []

    def __bool__(self):
        """Whether there is anything to take back."""
        return bool(self._sent)

    def withdraw(self):
        """Declares that the pickle reached nobody and never will."""
        while self._sent:
            self._sent.pop().withdraw()


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
    published = Published()
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, published).dump(obj)
        return buffer.getvalue(), published
    except BaseException:
        published.withdraw()
        raise


class _Pickler(ForkingPickler):
    """Notes what its handles hold; not what an object sends elsewhere while it is pickled."""

    def __init__(self, buffer, published):
        super().__init__(buffer)

        def noting(reduce):
            return lambda a: reduce(a, published)
        # A copy of this pickler's own; `register` may have been told of classes of users.
        ours = {cls: noting(known) for cls, known in self.dispatch_table.items()
                if known is _reduce or known in _reducers}
        self.dispatch_table.update(ours)


def loads(data):
    """Unpickles what `dumps` made; raises what unpickling raises."""
    return ForkingPickler.loads(data)


def register(cls):
    """Lets ``multiprocessing`` and ``loky`` send objects of exactly the class `cls` by handle."""
    ForkingPickler.register(cls, _reduce)
    _classes.append(cls)
    _register_with_loky()


def register_reducer(cls, reduce):
    """Lets ``multiprocessing`` send objects of exactly the class `cls` as `reduce(obj, published)`
    says, which adds to `published`, where that is not None, what can be withdrawn."""
    ForkingPickler.register(cls, reduce)
    _reducers.append(reduce)


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


def _reduce(a, published=None):
    """The handle of `a`, as a pickler wants it."""
    handle = _core.array_send(a)
    if handle is None:
        return _reduce_elsewhere(a, published)
    handle, sent = handle
    if published is not None:
        published._sent.append(sent)
    _family.export()
    cls = type(a)
    return _open, (handle, _short(a.dtype), a.flags.writeable,
                   None if cls is _arrays().SharedNDArray else cls)


def _reduce_elsewhere(a, published):
    """The handle of an array in a named array, or what is sent for want of one."""
    if _core.named_place(a, a.dtype.itemsize) is None:
        return a.__reduce_ex__(4)  # an object of a user's class with private memory
    from . import named
    return named.reduce(a) or _reduce(_copy(a), published)  # its name may be gone, the memory is not


def _copy(a):
    copied = _arrays().array(a)
    if not a.flags.writeable:
        copied.flags.writeable = False
    return copied if type(a) is type(copied) else copied.view(type(a))


def _arrays():
    # Not imported above: the two modules need each other.
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
    arrays = _arrays()
    dtype = np.dtype(dtype)
    arrays._refuse_pointers(dtype)
    memory, offset, shape, strides = _family.open_array(handle, dtype.itemsize)
    result = np.ndarray.__new__(cls or arrays.SharedNDArray, shape, dtype, memory, offset, strides)
    if not writeable:
        result.flags.writeable = False
    return result
