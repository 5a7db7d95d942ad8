"""Arrays that were let go of by `drop_inherited`: using one raises.

The type of shared arrays is as quick as numpy's own because it adds nothing to it. Only
a process that has let arrays go gets a type that looks before each use.
"""

import functools

import numpy as np

from . import _core
from .arrays import SharedNDArray

# What tells about an array without touching its memory, or makes and unmakes it.
_HARMLESS = {
    "__array_finalize__", "__array_interface__", "__array_prepare__",
    "__array_priority__", "__array_struct__", "__array_wrap__", "__class__",
    "__class_getitem__", "__delattr__", "__dir__", "__doc__", "__getattribute__",
    "__hash__", "__init__", "__init_subclass__", "__len__", "__new__", "__setattr__",
    "__sizeof__", "__subclasshook__", "base", "ctypes", "dtype", "flags", "itemsize",
    "nbytes", "ndim", "shape", "size", "strides", "__array_ufunc__", "__buffer__",
}


def _check(value):
    if isinstance(value, SharedNDArray) and _core.array_is_dropped(value):
        raise ValueError(
            "this array was inherited from the parent process, and drop_inherited() has "
            "let it go; send the array to this process, or do not drop it")


def _guarded(original):
    @functools.wraps(original)
    def look_first(self, *args, **keywords):
        _check(self)
        return original(self, *args, **keywords)
    return look_first


def _ufunc(self, ufunc, method, *inputs, **keywords):
    del self
    outputs = keywords.get("out", ())
    for value in inputs + outputs:
        _check(value)
    if outputs:
        keywords["out"] = tuple(map(_plain, outputs))
    if "where" in keywords:
        # NumPy asks this one's type as well (since 1.25), and would come back here for ever.
        _check(keywords["where"])
        keywords["where"] = _plain(keywords["where"])
    result = getattr(ufunc, method)(*map(_plain, inputs), **keywords)
    # Who gave the place for a result gets it back.
    return outputs[0] if len(outputs) == 1 else result


def _plain(value):
    # Not its own method, which looks as well.
    return np.ndarray.view(value, np.ndarray) if isinstance(value, SharedNDArray) else value


def guard():
    """Has shared arrays looked at before each use, in this process, from now on."""
    if SharedNDArray.__array_ufunc__ is _ufunc:
        return
    for name in dir(np.ndarray):
        original = getattr(SharedNDArray, name)
        if name in _HARMLESS or not hasattr(np.ndarray, name):
            continue
        if callable(original):
            setattr(SharedNDArray, name, _guarded(original))
        elif hasattr(original, "__get__"):  # data, flat, T, real, imag
            # To set real, imag or flat writes into the memory, which may be others' by now.
            setattr(SharedNDArray, name, property(_guarded(original.__get__), _guarded(original.__set__)))
    setattr(SharedNDArray, "__array_ufunc__", _ufunc)  # noqa: B010  (mypy knows it as a method)
