"""Arrays of every kind to test with, and what is known of an array's memory."""

from multiprocessing.reduction import ForkingPickler

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import _core  # noqa: E402

TITLED = np.dtype({"names": ["x", "y"], "formats": ["i1", ">f8"], "offsets": [3, 16],
                   "titles": ["first", "second"], "itemsize": 40})

SAMPLES = {
    "bool": np.array([True, False, True]),
    "int8": np.arange(-3, 3, dtype="i1"),
    "uint64": np.array([0, 2 ** 64 - 1], dtype="u8"),
    "big-endian": np.arange(5, dtype=">i4"),
    "float16": np.array([0.5, np.inf, np.nan], dtype="f2"),
    "longdouble": np.array([1, 3], dtype=np.longdouble) / 7,
    "complex64": np.array([1 + 2j, -3j], dtype="c8"),
    "clongdouble": np.array([1 + 2j, -3j], dtype=np.clongdouble),
    "bytes": np.array([b"a", b"", b"long\0x"]),
    "text": np.array(["caf\u00e9", "", "\U0001f40d"]),
    "big-endian text": np.array(["ab", "c"], dtype=">U3"),
    "void": np.array([b"abc", b"de"], dtype="V4"),
    "datetime": np.array(["2020-02-29", "NaT"], dtype="M8[D]"),
    "datetime, 25 s": np.array([0, 1], dtype="M8[25s]"),
    "timedelta": np.array([1, -1], dtype="m8[ns]"),
    "structured": np.array([(1, 2.5, "x"), (3, 4.5, "yy")], dtype="i4,f8,U3"),
    "aligned": np.zeros(3, dtype=np.dtype("i1,f8", align=True)),
    "offsets and titles": np.array([(1, 2.0), (3, 4.0)], dtype=TITLED),
    "nested": np.ones(2, dtype=[("a", [("b", "i2", (2, 3)), ("c", "S2")]), ("d", "M8[us]")]),
    "subarray": np.ones(2, dtype=("f4", (2, 3))),
    "0-d": np.array(3.5),
    "0-d structured": np.array((1, 2.0), dtype="i4,f8"),
    "empty": np.empty((0,)),
    "empty, 3 axes": np.empty((3, 0, 2), order="F"),
    "no fields": np.zeros(3, dtype=[]),
    "C": np.arange(24).reshape(2, 3, 4),
    "F": np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "broadcast": np.broadcast_to(np.arange(4.0), (3, 4)),
    "all broadcast": np.broadcast_to(np.float32(2), (3, 4)),
    "reversed": np.arange(24).reshape(4, 6)[::-1, ::-2],
    "read-only": np.arange(3),
    "unaligned": np.zeros(33, "u1")[1:].view("f8"),
}
SAMPLES["read-only"].flags.writeable = False


def same(one, other):
    """Equal in shape, dtype and every byte of every item."""
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype.names is not None:
        return (one.dtype == other.dtype and one.shape == other.shape
                and all(same(one[name], other[name]) for name in one.dtype.names))
    return (one.dtype == other.dtype and one.shape == other.shape
            and one.tobytes() == other.tobytes())


def strides(a):
    """The strides that matter."""
    return [a.size and stride for stride, length in zip(a.strides, a.shape) if length > 1]


def in_use():
    """How much shared memory this process's arrays take, in bytes."""
    return _core.stats()["in_use_bytes"]


def name_of(a):
    """The name of all of an array's memory; raises AssertionError where there is none."""
    memory = _core.array_memory(a)
    assert memory is not None
    return _core.array_name(np.ndarray(len(memory), np.uint8, memory))


def memory_of(a):
    """Which memory an array of this process lies in: equal for views of the same."""
    memory = _core.array_memory(a)
    assert memory is not None
    return address_of(np.frombuffer(memory, "u1")), len(memory)


def exists(name):
    """Whether somebody holds the memory of that name."""
    _core.stats()  # looks first: what was sent may be found to be gone only then
    try:
        _core.array_open(name, 1)
    except _core.StaleHandle:
        return False
    return True


def dirty(nbytes):
    """Leaves memory behind that is not zero, where the next array of that size lies."""
    a = snp.empty(nbytes, np.uint8)
    a[...] = 0xa5
    address = address_of(a)
    del a
    again = snp.empty(nbytes, np.uint8)
    assert address_of(again) == address and (again == 0xa5).all(), "memory is recycled"


def address_of(a):
    return a.__array_interface__["data"][0]


def by_handle(a):
    """What another process would make of what it is sent."""
    return ForkingPickler.loads(ForkingPickler.dumps(a))
