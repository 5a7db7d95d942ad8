"""Named arrays: arrays in shared memory for programs that know nothing of each other.

What is guaranteed:

- A name is made exclusively, and belongs to one array until it is removed: by
  `unlink`, or with its creator's program unless that asked for ``persist=True``.
- Whoever has an array open keeps it, whatever happens to the name.
- Memory is committed when the array is made. Nothing is handed out that was not
  checked, dtype included: no bytes in a segment can make this process see objects.
- An array of another user than you and root is opened only when asked for.

The format is told in docs/named_arrays.md. The dtype is JSON there, not a Python
literal: a parser of Python can be brought down by nested brackets.
"""

import base64
import errno
import json
import re
import sys

from . import _core
from . import _family
from . import _tracker

# First of all: the two modules need each other, and its error says how to get numpy.
__import__(__package__ + ".arrays")

import numpy as np  # noqa: E402

__all__ = ["attach", "unlink"]

# The names of arrays that nobody has named: a handle in hexadecimal digits, a dot, and
# the dtype's text in those of base64.
NAMELESS_PREFIX = "snp_"
# What NumPy calls `dtype.str`, of the kinds that can be shared.
_SIMPLE = re.compile(r"[<>|][biufcmMSUV][0-9]{1,10}(\[[0-9]{0,10}[A-Za-z]{1,7}\])?\Z")
# How deep structures may lie in each other.
_DEPTH_MAX = 32


def attach(name, readonly=False, *, owner=None):
    """Opens an array by its name.

    Parameters
    ----------
    name : str
        The name given to ``shared_numpy.ndarray(..., name=...)`` by any program of
        this machine; leading slashes do not matter. Or what ``a.shm.name`` said of an
        array without a name of its own, inside the program that has it.
    readonly : bool
        Open without the right to write: the array cannot be made writeable.
    owner : int, optional
        The id of the user whose array it has to be. By default only your own and
        root's arrays are opened: somebody else's file is not to be trusted.

    Returns
    -------
    SharedNDArray

    Raises
    ------
    FileNotFoundError
        There is no such name.
    PermissionError
        The array is another user's, or its permission bits keep you out.
    ValueError
        The name leads to something that is no named array, to one that is still being
        made, or to a damaged one; the message says what it lacks.
    """
    if _bare(name).startswith(NAMELESS_PREFIX):
        return _attach_nameless(name, readonly)
    return _attach_named(name, readonly, owner)


def unlink(name, *, owner=None):
    """Removes the name of a named array; its memory goes with its last view.

    Also one that its maker was killed over. Other segments are left alone.

    Parameters
    ----------
    name : str
        The name.
    owner : int, optional
        As for `attach`.

    Raises
    ------
    FileNotFoundError
        There is no such name (any more).
    PermissionError, ValueError
        As for `attach`.
    """
    identity = _core.named_unlink(name, owner)
    _tracker.gone("array", "/" + _bare(name), identity)


def _bare(name):
    if not isinstance(name, str):
        raise TypeError("the name of an array is a str (got {!r})".format(name))
    return name.lstrip("/")


def _attach_nameless(name, readonly):
    memory, offset, shape, strides, dtype = open_name(name)
    cls = _arrays().SharedNDArray
    result = np.ndarray.__new__(cls, shape, dtype, memory, offset, strides)
    if readonly:
        result.flags.writeable = False
    return result


def name_of(a):
    """The name of an array that lies in a block."""
    text = base64.urlsafe_b64encode(_write_dtype(a.dtype)).decode("ascii")
    return _core.array_name(a) + "." + text.rstrip("=")


def open_name(name):
    """What `name_of` said: memory, offset, shape, strides and dtype.

    Raises ValueError for a name that leads nowhere, and what `_family.open_array` raises.
    """
    handle, dot, text = _bare(name).partition(".")
    if not dot:
        raise ValueError("{!r} begins like the name of an array without name of its own (`a.shm.name`), "
                         "and is none".format(name))
    try:
        told = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii"))
        dtype = _parse_dtype(told, 0)
        _arrays()._refuse_pointers(dtype)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ValueError("{!r} is not the name of an array: take what a.shm.name says, all of "
                         "it".format(name)) from None
    return _family.open_array(handle, dtype.itemsize) + (dtype,)


def without_writing(memory):
    """The same bytes, read-only."""
    result = np.frombuffer(memory, np.uint8)
    result.flags.writeable = False
    return result


def _attach_named(name, readonly, owner):
    _tracker.come()
    memory, start, shape, itemsize, fortran, text = _core.named_attach(
        name, bool(readonly), owner)
    dtype = _read_dtype(name, text)
    if dtype.itemsize != itemsize:
        raise _damaged(name, "its items have {} bytes and its dtype has {}".format(
            itemsize, dtype.itemsize))
    cls = _arrays().SharedNDArray
    return np.ndarray.__new__(cls, tuple(shape), dtype, memory, start, None,
                              "F" if fortran else "C")


def create(shape, dtype, order, name, persist, mode):
    """A new named array; see ``shared_numpy.ndarray``. `order` is 'C' or 'F'."""
    arrays = _arrays()
    bare = _bare(name)
    if bare.startswith(NAMELESS_PREFIX):
        raise ValueError("names that begin with {!r} are those of arrays without a name: "
                         "choose another one than {!r}".format(NAMELESS_PREFIX, name))
    if mode is None:
        mode = 0o600
    elif not 0 <= mode <= 0o777:
        raise ValueError("mode must be permission bits, at most 0o777 (got {!r})".format(mode))
    shape, dtype = arrays._whole(shape, dtype)
    text = _write_dtype(dtype)
    if len(shape) > 32:
        # Let numpy, whose limit it is, refuse before memory is taken.
        np.empty((0,) * len(shape), np.bool_)
    arrays._nbytes(shape, dtype, "array")
    claimed = []
    try:
        # As in `SharedMemory._create`: what a signal's handler raises comes up at the
        # next step of Python code, and `claimed` says then whether the name is ours.
        claimed.extend(map(_core.named_claim, (name,)))
        if not persist:
            _tracker.register("array", "/" + bare, claimed[0])
        memory, start = _core.named_fill(
            name, claimed[0], mode, shape, dtype.itemsize, order == "F", text)
        return np.ndarray.__new__(arrays.SharedNDArray, shape, dtype, memory, start, None, order)
    except BaseException as error:
        if claimed:
            _discard("/" + bare, claimed[0])
        elif isinstance(error, FileExistsError):
            raise FileExistsError(
                errno.EEXIST, "the name is taken: open what it leads to with "
                "shared_numpy.attach, remove it with shared_numpy.unlink, or choose another "
                "one", "/" + bare) from None
        raise


def _discard(name, identity):
    try:
        _core.segment_unlink(name, identity)
    except FileNotFoundError:
        pass  # removed by whoever failed
    _tracker.gone("array", name, identity)


def _arrays():
    return sys.modules[__package__ + ".arrays"]


def named_of(a):
    """The named array that `a` lies in; None if it lies elsewhere."""
    place = _core.named_place(a, a.dtype.itemsize)
    return None if place is None else place[0]


def unlink_of(named):
    """Removes the name of what `named_of` returned; nothing happens if it is gone."""
    named.unlink()
    _tracker.gone("array", named.name, named.identity)


# --- Handles ----------------------------------------------------------------------

def reduce(a):
    """The handle of an array that lies in a named array, as a pickler wants it.

    None when the array lies elsewhere, or the name is gone: then there is nothing to
    send a handle of.
    """
    place = _core.named_place(a, a.dtype.itemsize)
    if place is None or not place[0].publish():
        return None
    named, offset = place
    arrays = _arrays()
    cls = type(a)
    return _open, (named.name, named.identity, offset, a.shape, a.strides, a.dtype,
                   not a.flags.writeable, None if cls is arrays.SharedNDArray else cls)


def _open(name, identity, offset, shape, strides, dtype, readonly, cls):
    """The array that a handle leads to, in this process.

    Raises
    ------
    FileNotFoundError
        The name was removed, or is another array's by now.
    ValueError, TypeError
        The handle does not fit the array, or its dtype holds objects.
    """
    arrays = _arrays()
    arrays._refuse_pointers(dtype)
    axes = list(zip(shape, strides))
    if len(axes) != len(shape) or len(axes) != len(strides):
        raise ValueError("a handle with {} lengths and {} strides".format(
            len(shape), len(strides)))
    _tracker.come()
    try:
        memory, start = _core.named_open(name, identity, readonly, offset, axes, dtype.itemsize)
    except FileNotFoundError:
        raise FileNotFoundError(
            errno.ENOENT, "the named array is gone: its name was removed, or given to another "
            "one, before this handle was received; call unlink() only after the last receiver "
            "has got the array, or send a copy (np.array(a))", name) from None
    return np.ndarray.__new__(cls or arrays.SharedNDArray, shape, dtype, memory, start, strides)


# --- The dtype as text ------------------------------------------------------------

def _write_dtype(dtype):
    """The text of a dtype. TypeError for one that no text can tell."""
    text = json.dumps(_describe(dtype), separators=(",", ":"))
    told = _parse_dtype(json.loads(text), 0)
    # The types of other packages look like plain bytes to us.
    if told != dtype or (dtype.names is None and told.type is not dtype.type):
        raise TypeError("dtype {!r} cannot be described to other programs".format(dtype))
    return text.encode("ascii")


def _describe(dtype):
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_describe(base), list(shape)]
    if dtype.names is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    titles = [field[2] if len(field) > 2 else None for field in fields]
    if not all(isinstance(title, (str, type(None))) for title in titles):
        raise TypeError("dtype {!r} cannot be described to other programs: its titles are "
                        "not text".format(dtype))
    told = {"names": list(dtype.names), "formats": [_describe(field[0]) for field in fields],
            "offsets": [field[1] for field in fields], "itemsize": dtype.itemsize}
    if any(title is not None for title in titles):
        told["titles"] = titles
    if dtype.isalignedstruct:
        told["aligned"] = True
    return told


def _read_dtype(name, text):
    """The dtype that a header tells. ValueError if it tells none that can be shared."""
    try:
        dtype = _parse_dtype(json.loads(text.decode("ascii")), 0)
        _arrays()._refuse_pointers(dtype)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise _damaged(name, "its dtype is not one that arrays can have ({})".format(
            error)) from None
    return dtype


def _parse_dtype(told, depth):
    """The dtype that `_describe` told. ValueError, TypeError, KeyError if it did not."""
    if depth > _DEPTH_MAX:
        raise ValueError("structures lie in each other too deep")
    if isinstance(told, str):
        if _SIMPLE.match(told) is None:
            raise ValueError("unknown dtype {!r}".format(told[:40]))
        return np.dtype(told)
    if isinstance(told, list):
        base, shape = told
        return np.dtype((_parse_dtype(base, depth + 1), tuple(map(_size, shape))))
    if not isinstance(told, dict):
        raise ValueError("neither text nor structure: {!r}".format(told))
    fields = {"names": [_text(name) for name in told["names"]],
              "formats": [_parse_dtype(each, depth + 1) for each in told["formats"]],
              "offsets": [_size(offset) for offset in told["offsets"]],
              "itemsize": _size(told["itemsize"])}
    if "titles" in told:
        fields["titles"] = [None if title is None else _text(title) for title in told["titles"]]
    return np.dtype(fields, align=told.get("aligned") is True)


def _text(told):
    if not isinstance(told, str):
        raise ValueError("the name of a field is {!r}".format(told))
    return told


def _size(told):
    if type(told) is not int or not 0 <= told < 1 << 31:
        raise ValueError("a size or offset is {!r}".format(told))
    return told


def _damaged(name, reason):
    return ValueError("cannot use shared memory {!r}: the header of the named array is "
                      "damaged: {}".format(_bare(name), reason))
