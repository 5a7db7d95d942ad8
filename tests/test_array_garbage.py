"""Random and mutated handles and names: errors at worst, whatever they say."""

import base64
import random

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import _core, named, reduction  # noqa: E402
from array_samples import in_use  # noqa: E402

ERRORS = (ValueError, LookupError, TypeError, RuntimeError)
ROUNDS = 3000


def mutated(chance, good):
    """Bytes like `good`: changed, cut, doubled or moved somewhere; or entirely random."""
    bad = bytearray(good)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at, to = sorted((chance.randrange(len(bad) + 1), chance.randrange(len(bad) + 1)))
        how = chance.randrange(7)
        if how == 0 or not bad:
            bad[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9)))
        elif how == 1:
            del bad[at:min(to, at + 8)]
        elif how == 2:
            bad[at:at] = bad[at:to][:16]
        elif how == 3:
            bad[min(at, len(bad) - 1)] ^= 1 << chance.randrange(8)
        elif how == 4:
            bad[min(at, len(bad) - 1)] = chance.choice((0, 1, 0x7f, 0x80, 0xff))
        else:
            bad[min(at, len(bad) - 1)] = chance.randrange(256)
    return bytes(bad)


def use(opened, dtype):
    memory, offset, shape, strides = opened
    a = np.ndarray(shape, dtype, memory, offset, strides)
    assert a.size * a.itemsize == 0 or int(a.view(np.ndarray).astype("u1", copy=True).sum()) >= 0


@pytest.fixture
def a():
    before = in_use()
    made = snp.array(np.arange(24, dtype="u1").reshape(4, 6))
    yield made
    assert (made == np.arange(24).reshape(4, 6)).all(), "nobody wrote"
    del made
    snp.trim(True)
    assert in_use() <= before + 64


@pytest.mark.parametrize("seed", range(3))
def test_handles(a, seed):
    chance = random.Random(seed)
    goods = []
    for view in (a, a[::-1, 3:], a.T, a[None, 1]):
        handle = _core.array_send(view)
        _core.array_open(handle, view.itemsize)  # nothing is on its way from here on
        goods.append(bytes(handle))
    refused = 0
    for turn in range(ROUNDS):
        bad = mutated(chance, chance.choice(goods)) if turn % 10 else bytes(
            chance.randrange(256) for _ in range(chance.randrange(200)))
        itemsize = chance.choice((1, 1, 1, 0, 2, 8, 1 << 40))
        try:
            opened = _core.array_open(bad, itemsize)
        except ERRORS:
            refused += 1
            continue
        if itemsize == 1:
            use(opened, "u1")
    assert refused > ROUNDS // 2


def test_names(a):
    chance = random.Random(7)
    good = a[1:].shm.name.encode()
    for turn in range(ROUNDS):
        bad = mutated(chance, good).decode("latin-1")
        if turn % 3 == 0:
            text = bytes(chance.choice(b'"<f8u1[]{},:0123456789names') for _ in range(chance.randrange(30)))
            bad = good.decode().partition(".")[0] + "." + base64.urlsafe_b64encode(text).decode().rstrip("=")
        for opening in (snp.attach, lambda name: named.open_name(name), snp.shared_memory.SharedMemory):
            try:
                opened = opening(bad)
            except ERRORS + (FileNotFoundError, OSError):
                continue
            del opened


def test_arguments_of_reductions(a):
    """What a pickle may call `_open` with."""
    chance = random.Random(9)
    handle = _core.array_send(a)
    _core.array_open(handle, a.itemsize)
    odd = [None, 0, -1, 1 << 70, 1.5, "", "u1", b"", handle, bytearray(handle), [], (), {}, object(), "O", "V0", "f8"]
    for _ in range(ROUNDS // 3):
        arguments = [handle, "|u1", True, None]
        for _ in range(chance.choice((1, 2))):
            arguments[chance.randrange(3)] = chance.choice(odd)
        try:
            opened = reduction._open(*arguments)
        except ERRORS:
            continue
        assert type(opened) is snp.SharedNDArray and not opened.dtype.hasobject
