"""NumPy arrays in shared memory, which travel between processes by handle.

What is guaranteed:

- An object of type `SharedNDArray` lies in shared memory: what `array` and its
  siblings make, and every view of it (slices, transposes, reshaped arrays, fields,
  other dtypes). Whatever has memory of its own (``a + 1``, ``a.sum(axis=0)``,
  ``a[[1, 2]]``, ``a.copy()``, ``np.empty_like(a)``) is an ordinary array or scalar.
- Memory is committed when an array is made: none left is an ``OSError`` or a
  ``MemoryError``, and never a signal.
- An array stays readable and writable until it is dropped, whatever was closed or
  unlinked meanwhile, here or elsewhere.
- Memory comes back when the last process that can see it has dropped it or has
  ended, by whatever death. Nobody needs to close or unlink anything.
- Input is copied once, straight into shared memory.
"""

import operator
import sys

try:
    import numpy as np
except ImportError as error:
    raise ImportError(
        "shared_numpy's arrays need numpy, which is not installed: "
        "pip install 'shared-numpy[arrays]'") from error

from . import _core
from . import _family  # noqa: F401  (says who we are, before anything is made)
from .shared_memory import SharedMemory

__all__ = [
    "SharedNDArray", "array", "ndarray", "from_array", "zeros", "empty", "ones",
    "full", "zeros_like", "empty_like", "ones_like", "full_like",
]

# Items that are, or hold, pointers into the process that made them.
_POINTER_FLAGS = 0x01 | 0x04


def _without_garbage_collection(body):
    """The class `body` as a type made in C, whose objects are laid out as numpy's own.

    That lets results with private memory become ordinary arrays (`_core.array_type`).
    The methods must not use ``super()``: they are moved to another class.
    """
    cls = _core.array_type(np.ndarray)
    for name, value in vars(body).items():
        if name not in ("__dict__", "__weakref__", "__module__", "__slots__"):
            setattr(cls, name, value)
    return cls


@_without_garbage_collection
class SharedNDArray(np.ndarray):
    """An array in shared memory. Made by `array`, `ndarray`, `zeros` and the like.

    ``SharedNDArray(shape, dtype=float, order=None)`` is the same as `ndarray`, which
    is quicker.

    It is a ``numpy.ndarray`` in all respects. Views of it are of this type;
    results with memory of their own are ordinary arrays. Put on a queue of
    ``multiprocessing`` or of ours, sent through a pipe, given to or returned by a
    process of a pool, it goes by handle and both sides see the same memory;
    ``pickle`` and ``copy`` give an ordinary array by value.

    Classes derived from it are also sent by handle and keep their type, unless they
    say by ``__reduce__`` or ``__reduce_ex__`` what is sent; their objects, unlike
    those of this class, may have private memory.
    """

    __slots__ = ()

    # Functions in C that keep numpy from giving results this type; what gets it all
    # the same is put right by `__array_finalize__`, a method in C.
    __array_wrap__ = _core.array_unwrap
    if hasattr(np.ndarray, "__array_prepare__"):  # NumPy 1
        __array_prepare__ = _core.array_prepare

    def __new__(cls, shape, dtype=float, order=None):
        return _allocate(shape, dtype, _c_or_f(order), cls)

    def __init_subclass__(cls, **keywords):
        np.ndarray.__init_subclass__(**keywords)
        if not _has_ways_of_its_own(cls):
            _reduction.register(cls)

    @property
    def shm(self):
        """The memory of this array, as a `SharedMemory`.

        Its ``name`` leads to the array: `attach` takes it. It holds nothing, so that
        somebody must keep the array meanwhile. Each access gives a new object, which may
        be closed at will.
        """
        memory = _core.array_memory(self)
        if memory is not None:
            return _ArrayMemory(memory, _named.name_of(self))
        named = _named.named_of(self)
        if named is None:
            raise _private_memory()
        return _NamedMemory(named)

    def close(self):
        """Does nothing, any number of times: the array stays usable until it is dropped.

        Its memory comes back when all processes have dropped it.
        """

    def unlink(self):
        """Removes the name of a named array; does nothing to others. Any number of times."""
        named = _named.named_of(self)
        if named is not None:
            _named.unlink_of(named)

    def __reduce__(self):
        if _has_ways_of_its_own(type(self)):
            # Whose methods call this one expect what numpy gives: an object of their class.
            return np.ndarray.__reduce__(self)
        return self.view(np.ndarray).__reduce__()

    def __reduce_ex__(self, protocol):
        if type(self).__reduce__ is not SharedNDArray.__reduce__:
            return self.__reduce__()  # as `object` does
        if _has_ways_of_its_own(type(self)):
            return np.ndarray.__reduce_ex__(self, protocol)
        # By value: pickles of unknown destination must not depend on this program.
        handle = _reduction.reduce_for_worker(self)
        if handle is not None:
            return handle
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _has_ways_of_its_own(cls):
    """Whether a derived class says itself how its objects are pickled."""
    return (cls.__reduce__ is not SharedNDArray.__reduce__
            or cls.__reduce_ex__ is not SharedNDArray.__reduce_ex__)


class _ArrayMemory(SharedMemory):
    """The memory of an array with the face of a `SharedMemory`; there is no name to remove."""

    def __init__(self, memory, name):
        # Not the array's own buffer: the array may go while this object stays.
        self._mmap = memory
        self._name = name
        self._look()

    @property
    def _fd(self):
        return -1

    def unlink(self):
        """Does nothing: the memory has no name in the file system."""

    def __reduce__(self):
        return _open_memory, (self.name,)

    def __repr__(self):
        return "SharedMemory({!r}, size={})".format(self.name, self.size)


class _NamedMemory(_ArrayMemory):
    """The memory of a named array."""

    def __init__(self, named):
        _ArrayMemory.__init__(self, named.exporter(), named.name)
        self._named = named

    def unlink(self):
        """Removes the name; nothing happens if that was done before."""
        _named.unlink_of(self._named)

    def __reduce__(self):
        return SharedMemory, (self.name,)


def _open_memory(name):
    """The memory of the array with the name that ``a.shm.name`` was."""
    return _ArrayMemory(_named.open_name(name)[0], name)


def _private_memory():
    return ValueError("this array is not in shared memory: make it with "
                      "shared_numpy.array(...) or shared_numpy.ndarray(...)")


def _has_pointers(dtype):
    return dtype.hasobject or dtype.flags & _POINTER_FLAGS or dtype.kind == "T"


def _refuse_pointers(dtype):
    if _has_pointers(dtype):
        raise TypeError(
            "dtype {!r} cannot be shared: its items are references to objects of one "
            "process; use a dtype of fixed size (for text 'U20' or 'S20', for mixed "
            "records a structured dtype)".format(dtype))


def _whole(shape, dtype):
    """Shape and dtype as numpy would use them: subarrays unfolded, sizes given.

    Raises TypeError and ValueError as ``numpy.empty`` does, and TypeError for
    items that hold Python objects.
    """
    dtype = np.dtype(dtype)
    _refuse_pointers(dtype)
    try:
        shape = tuple(map(operator.index, shape))
    except TypeError:
        shape = (operator.index(shape),)
    if any(length < 0 for length in shape):
        raise ValueError("negative dimensions are not allowed")
    # Only the first axis is empty, so that the dtype's own axes show.
    sample = np.empty((0,), dtype)
    return shape + sample.shape[1:], sample.dtype


def _nbytes(shape, dtype, what):
    """How many bytes an array takes. ValueError if they cannot be addressed."""
    nbytes = dtype.itemsize
    for length in shape:
        nbytes *= length
    # Axes of length 0 aside, as in numpy: (0, 2**62, 2**62) is too big as well.
    reach = dtype.itemsize
    for length in shape:
        reach *= max(length, 1)
    if max(shape + (reach,)) > sys.maxsize:
        raise ValueError("{} is too big: {} bytes of shape {} and dtype {}; the limit "
                         "is {}".format(what, reach, shape, dtype, sys.maxsize))
    return nbytes


def _allocate(shape, dtype, order, cls=SharedNDArray, zeroed=False):
    """A new array, for arguments of every kind; `order` is 'C' or 'F'."""
    shape, dtype = _whole(shape, dtype)
    nbytes = _nbytes(shape, dtype, "array")
    if len(shape) > 32:
        # Let numpy, whose limit it is, refuse before memory is taken.
        np.empty((0,) * len(shape), np.bool_)
    memory = _core.block_create(nbytes, zeroed)
    return np.ndarray.__new__(cls, shape, dtype, memory, 0, None, order)


def _allocate_like(a, dtype, order, shape=None, make=None):
    """A new array, by `empty` or `make`, with the shape of `a` and its axes in memory as `order` says.

    `order` is 'C', 'F', 'A' (Fortran if `a` is, and not C) or 'K' (as in `a`, as
    near as can be), as for ``numpy.copy``.
    """
    make = make or empty
    order = (order or "K").upper()
    if order not in ("C", "F", "A", "K"):
        raise ValueError("order must be one of 'C', 'F', 'A', or 'K' (got {!r})".format(order))
    if shape is not None:
        shape = shape if np.iterable(shape) else (shape,)
        if len(tuple(shape)) != a.ndim and order == "K":
            order = "C"
    else:
        shape = a.shape
    if order == "A" or (order == "K" and (a.flags.c_contiguous or a.flags.f_contiguous)):
        order = "F" if a.flags.fnc else "C"
    if order != "K":
        return make(shape, dtype, order)
    # The axis with the longest steps outermost, as numpy does.
    axes = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
    inner = make([shape[axis] for axis in axes], dtype)
    places = sorted(range(a.ndim), key=axes.__getitem__)
    places += range(a.ndim, inner.ndim)  # the axes of a subarray dtype
    return inner.transpose(places)


def _plain(given, dtype=None):
    """`given` as an ordinary array, without copying what is an array already."""
    if isinstance(given, np.ma.MaskedArray):
        raise TypeError(
            "a masked array cannot be shared, its mask would be lost: share a.filled(value), "
            "or a.data and np.ma.getmaskarray(a) as two arrays")
    if isinstance(given, np.ndarray):
        return given.view(np.ndarray)
    return np.asarray(given, dtype)


def _needs_values(dtype):
    """Whether a dtype is only complete when the values are known."""
    if dtype.kind in "SUV" and dtype.itemsize == 0 and dtype.names is None:
        return True
    return dtype.kind in "mM" and np.datetime_data(dtype)[0] == "generic"


def array(object, dtype=None, copy=True, order="K", subok=False, ndmin=0):  # noqa: A002
    """Copies `object` into a new array in shared memory; like ``numpy.array``.

    Parameters
    ----------
    object : array_like
        An array (of any layout: transposed, broadcast, reversed) is copied once,
        straight into shared memory. Lists and other sequences become an ordinary
        array first, because their shape is not known before.
    dtype : dtype, optional
        Anything of fixed size. One without a size or unit (``'S'``, ``'U'``,
        ``'M8'``) is taken from the values, through an ordinary array.
    copy : bool, optional
        With False or None a `SharedNDArray` that fits is returned as it is.
        Anything else is copied.
    order : {'K', 'A', 'C', 'F'}
        How the axes lie in memory.
    subok : bool
        Accepted and ignored: the result is a `SharedNDArray`.
    ndmin : int
        The least number of axes; ones are put in front of the shape.

    Raises
    ------
    TypeError
        The items are, or contain, Python objects, or the input is a masked array.
    OSError
        ``ENOSPC``: shared memory is full; nothing is left behind.
    """
    del subok
    if dtype is not None:
        dtype = np.dtype(dtype)
        _refuse_pointers(dtype)
    if not copy and _fits(object, dtype, order, ndmin):
        return object
    source = _plain(object, dtype)
    if dtype is not None and _needs_values(dtype):
        source = np.array(source, dtype)
    if dtype is None or _needs_values(dtype):
        dtype = source.dtype
    if source.ndim < ndmin:
        source = source[(np.newaxis,) * (ndmin - source.ndim)]
    if dtype.subdtype is not None:
        # How values spread over a subarray is numpy's business.
        source = np.array(source if source is not object else object, dtype)
        dtype = source.dtype
    result = _allocate_like(source, dtype, order)
    result[...] = source
    return result


def _fits(given, dtype, order, ndmin):
    if type(given) is not SharedNDArray or given.ndim < ndmin:
        return False
    flags = given.flags
    return ((dtype is None or dtype == given.dtype)
            and (order in ("K", "A", None)
                 or (flags.c_contiguous if order == "C" else flags.f_contiguous)))


def from_array(a):
    """Copies an array into a new one in shared memory, with its layout and dtype."""
    return array(a)


@_core.array_maker
def ndarray(shape, dtype=None, order=None, *, name=None, persist=False, mode=None):
    """A new array in shared memory; its bytes are what was last in that memory.

    Parameters
    ----------
    shape : int or sequence of int
        The lengths of the axes; empty arrays and no axes at all are fine.
    dtype : dtype
        Anything but Python objects; float by default.
    order : {'C', 'F'}, optional
        Row-major (default) or column-major.
    name : str, optional
        A name by which unrelated programs open the array with `attach`, until it is
        removed by `unlink` or with this program.
    persist : bool
        For a named array: it stays when this program has ended, until `unlink` or
        the machine's next start.
    mode : int, optional
        For a named array: its permission bits, exactly; 0o600 by default.

    Raises
    ------
    TypeError
        The items are, or contain, Python objects.
    ValueError
        A negative length, or more bytes than can be addressed; a name no array can have.
    FileExistsError
        The name is taken.
    MemoryError, OSError
        There is no more shared memory; nothing is left behind.
    """
    if name is not None:
        return _named.create(shape, dtype, _c_or_f(order), name, persist, mode)
    if persist or mode is not None:
        raise ValueError("'persist' and 'mode' are for named arrays: give a name as well")
    return _allocate(shape, dtype, _c_or_f(order))


def _c_or_f(order):
    if order is None:
        return "C"
    if not isinstance(order, str):
        raise TypeError("order must be str, not {}".format(type(order).__name__))
    if order.upper() not in ("C", "F"):
        raise ValueError("order must be 'C' or 'F' (got {!r})".format(order))
    return order.upper()


@_core.array_maker
def empty(shape, dtype=None, order="C"):
    """Like ``numpy.empty``, in shared memory. See `ndarray`."""
    return _allocate(shape, dtype, _c_or_f(order))


@_core.array_maker
def zeros(shape, dtype=None, order="C"):
    """Like ``numpy.zeros``, in shared memory. See `ndarray`."""
    # Zero bytes are the zero of every dtype that we take.
    return _allocate(shape, dtype, _c_or_f(order), zeroed=True)


def ones(shape, dtype=None, order="C"):
    """Like ``numpy.ones``, in shared memory. See `ndarray`."""
    return full(shape, 1, float if dtype is None else dtype, order)


def full(shape, fill_value, dtype=None, order="C"):
    """Like ``numpy.full``, in shared memory. See `ndarray`.

    Without `dtype` it is that of `fill_value`.
    """
    if dtype is None:
        dtype = np.asarray(fill_value).dtype
    result = empty(shape, dtype, order)
    np.copyto(result, fill_value, casting="unsafe")
    return result


def empty_like(prototype, dtype=None, order="K", subok=True, shape=None):
    """Like ``numpy.empty_like``, in shared memory; `subok` is ignored."""
    del subok
    prototype = _plain(prototype)
    return _allocate_like(prototype, prototype.dtype if dtype is None else dtype, order, shape)


def zeros_like(a, dtype=None, order="K", subok=True, shape=None):
    """Like ``numpy.zeros_like``, in shared memory; `subok` is ignored."""
    del subok
    a = _plain(a)
    return _allocate_like(a, a.dtype if dtype is None else dtype, order, shape, zeros)


def ones_like(a, dtype=None, order="K", subok=True, shape=None):
    """Like ``numpy.ones_like``, in shared memory; `subok` is ignored."""
    return full_like(a, 1, dtype, order, subok, shape)


def full_like(a, fill_value, dtype=None, order="K", subok=True, shape=None):
    """Like ``numpy.full_like``, in shared memory; `subok` is ignored."""
    result = empty_like(a, dtype, order, subok, shape)
    np.copyto(result, fill_value, casting="unsafe")
    return result


# The types of which `_core` knows every detail.
KINDS = (np.ndarray, SharedNDArray)

from . import named as _named  # noqa: E402  (they need what is above)
from . import reduction as _reduction  # noqa: E402

_reduction.register(SharedNDArray)
