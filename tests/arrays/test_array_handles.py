"""The bytes of a handle are distrusted: whatever they say, an error at worst, and nothing outside the array is reached."""

import pickle
import random

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import _core, reduction  # noqa: E402
from array_samples import address_of  # noqa: E402


def number(value):
    """As `crates/bindings/src/handle.rs` writes a number that cannot be negative."""
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7f | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def folded(value):
    return number(value * 2 if value >= 0 else -value * 2 - 1)


def tail(nbytes, offset, shape, strides):
    """What follows the block in a handle."""
    axes = b"".join(folded(length) + folded(stride) for length, stride in zip(shape, strides))
    return number(nbytes) + folded(offset) + number(len(shape)) + axes


def head(a):
    """The block in a handle of `a`, an array of 10 doubles."""
    handle = _core.array_send(a)
    _core.array_open(handle, 8)  # nothing is on its way from here on
    end = tail(80, 0, (10,), (8,))
    assert handle.endswith(end)
    return handle[:-len(end)]


def test_the_bytes_of_a_handle(made):
    a = made(np.arange(24.0).reshape(4, 6))
    for view in (a, a.T, a[::-1, 3:], a[1:1], a[2, 3, ...], a[None]):
        handle = _core.array_send(view)
        offset = address_of(view) - address_of(a)
        assert handle.endswith(tail(192, offset, view.shape, view.strides))
        memory, *opened = _core.array_open(handle, 8)
        assert opened == [offset, view.shape, view.strides] and len(memory) == 192


@pytest.mark.parametrize("offset, shape, strides, itemsize", [
    (8, (10,), (8,), 8), (-8, (1,), (8,), 8), (0, (11,), (8,), 8),
    (0, (2,), (-8,), 8), (72, (10,), (-8,), 16), (0, (5,), (2 ** 62,), 8),
    (0, (3, 3), (2 ** 63 - 1, -2 ** 63), 8), (0, (2 ** 62,), (2 ** 62,), 8),
    (81, (0,), (8,), 8), (0, (-1,), (8,), 8), (2 ** 63 - 1, (1,), (1,), 1), (0, (), (), 81),
    (0, (1,) * 65, (8,) * 65, 8), (0, (10,), (8,), -8), (0, (10,), (8,), 9),
])
def test_handles_that_point_outside_are_refused(made, offset, shape, strides, itemsize):
    a = made(np.zeros(10))
    with pytest.raises(ValueError):
        _core.array_open(head(a) + tail(80, offset, shape, strides), itemsize)


def test_handles_that_name_more_than_there_is_are_refused(made):
    a = made(np.zeros(10))
    for nbytes in (1 << 12, 1 << 40, 2 ** 63, 2 ** 64 - 1):
        with pytest.raises(ValueError):
            _core.array_open(head(a) + tail(nbytes, 0, (10,), (8,)), 8)


def test_other_bad_handles_are_refused(made):
    a = made(np.zeros(10))
    good = head(a) + tail(80, 0, (10,), (8,))
    assert _core.array_open(good, 8)[2] == (10,)
    for end in range(len(good)):
        with pytest.raises((ValueError, LookupError)):
            _core.array_open(good[:end], 8)
    for bad in (good + b"\0", head(a) + b"\xff" * 9 + b"\2", head(a) + b"\xff" * 40, b"", "",
                "snp_", "snp_1", "snp_xy", "snp_" + good.hex() + "0", good.hex(), "/nothing/there"):
        with pytest.raises((ValueError, LookupError)):
            _core.array_open(bad, 8)
    for dtype in (object, [("a", object)]):
        with pytest.raises(TypeError):
            reduction._open(good, dtype, True, None)
    with pytest.raises(TypeError):
        _core.array_open(None, 8)
    assert _core.array_open("/snp_" + good.hex(), 8)[2] == (10,)


def test_errors_of_handles_travel():
    for kind in (snp.StaleHandle, snp.ForeignHandle, snp.TrackerUnavailable):
        error = pickle.loads(pickle.dumps(kind("why")))
        assert type(error) is kind and error.args == ("why",)
    assert issubclass(snp.StaleHandle, LookupError) and issubclass(snp.ForeignHandle, LookupError)


def test_handles_of_other_versions_say_so(made):
    a = made(np.zeros(10))
    for bad in (b"\2" + head(a)[1:], head(a)[:1] + b"\x7f" + head(a)[2:]):
        with pytest.raises(_core.ForeignHandle, match="another version"):
            _core.array_open(bad + tail(80, 0, (10,), (8,)), 8)


def test_garbage_is_an_exception_at_worst(made):
    a = made(np.zeros(10))
    good = head(a) + tail(80, 0, (10,), (8,))
    chance = random.Random(5)
    for _ in range(2000):
        bad = bytearray(good)
        for _ in range(chance.choice((1, 1, 2, 8))):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        try:
            memory, offset, shape, strides = _core.array_open(bytes(bad), 8)
        except (ValueError, LookupError, RuntimeError):
            continue
        np.ndarray(shape, float, memory, offset, strides).sum()


def test_views_that_numpy_does_not_check_are_ordinary(made):
    a = made(np.zeros(10))
    beyond = np.lib.stride_tricks.as_strided(a, (100,), subok=True)
    assert type(beyond) is np.ndarray
