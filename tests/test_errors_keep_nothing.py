"""Errors that are raised in functions in C leave nothing behind, whatever else the program does or does not call.

The loops here call nothing of ours but what they are about: other calls would tidy up after it.
"""

import gc
import sys
import weakref

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy.shared_memory import ShareableList  # noqa: E402

ROUNDS = 2000


def growth(work):
    """How many more blocks of memory Python has after the second of two equal runs than after the first."""
    after = []
    for _ in range(3):  # the first one warms up
        for _ in range(ROUNDS):
            work()
        gc.collect()
        after.append(sys.getallocatedblocks())
    return after[2] - after[1]


@pytest.fixture
def items():
    made = ShareableList([1, 2.5, "text", b"bytes", None])
    yield made
    made.shm.close()
    made.shm.unlink()


def raises(error, call):
    def work():
        try:
            call()
        except error:
            return
        raise AssertionError("nothing was raised")
    return work


class NoIndex:
    pass


class BadIndex:
    def __index__(self):
        raise TypeError("no index")


class HugeIndex:
    def __index__(self):
        return 2 ** 80


def put(items, key, value):
    items[key] = value


LISTS = {
    "iteration": lambda items: lambda: list(items),
    "index": lambda items: raises(IndexError, lambda: items[5]),
    "huge index": lambda items: raises(IndexError, lambda: items[2 ** 80]),
    "huge __index__": lambda items: raises(IndexError, lambda: items[HugeIndex()]),
    "no index": lambda items: raises(TypeError, lambda: items[NoIndex()]),
    "bad index": lambda items: raises(TypeError, lambda: items[BadIndex()]),
    "assignment": lambda items: raises(IndexError, lambda: put(items, 5, 1)),
    "huge value": lambda items: raises(OverflowError, lambda: put(items, 0, 2 ** 80)),
    "bad value": lambda items: raises(TypeError, lambda: put(items, 0, [])),
    "bad text": lambda items: raises(UnicodeEncodeError, lambda: put(items, 2, "\ud800")),
    "slice": lambda items: raises(TypeError, lambda: items["a":]),
    "huge step": lambda items: lambda: items[::2 ** 80],
    "slice of another size": lambda items: raises(ValueError, lambda: put(items, slice(2), (1,))),
    "deletion": lambda items: raises(TypeError, lambda: items.__delitem__(0)),
}


@pytest.mark.parametrize("name", sorted(LISTS))
def test_lists(items, name):
    assert growth(LISTS[name](items)) < ROUNDS / 10


def test_a_list_that_was_not_made():
    items = ShareableList.__new__(ShareableList)
    assert growth(raises(ValueError, lambda: items[0])) < ROUNDS / 10
    assert growth(raises(ValueError, lambda: len(items))) < ROUNDS / 10


@pytest.mark.parametrize("make, error", [
    (snp.Lock, ValueError), (snp.RLock, AssertionError), (snp.BoundedSemaphore, ValueError)])
def test_locks(make, error):
    lock = make()
    assert growth(raises(error, lock.release)) < ROUNDS / 10
    assert growth(raises(TypeError, lambda: lock.acquire(timeout="soon"))) < ROUNDS / 10
    assert growth(raises(TypeError, lambda: lock.acquire(blocking=True))) < ROUNDS / 10
    assert growth(raises(TypeError, lambda: lock.acquire(**{"\ud800": True}))) < ROUNDS / 10


def test_arrays():
    assert growth(raises(TypeError, lambda: snp.empty(1, "no such dtype"))) < ROUNDS / 10
    assert growth(raises(ValueError, lambda: snp.zeros(-1))) < ROUNDS / 10
    assert growth(raises(TypeError, snp.empty)) < ROUNDS / 10


@pytest.mark.parametrize("error", [KeyError, TypeError])
def test_what_the_frames_of_an_error_had_goes_with_it(items, error):
    class Thing:
        pass

    seen = []

    class Key:
        def __index__(self):
            thing = Thing()
            seen.append(weakref.ref(thing))
            raise error("no")

    for use in [lambda: items[Key()], lambda: put(items, Key(), 1), lambda: items[Key():],
                lambda: put(items, slice(Key()), (1,))]:
        with pytest.raises(error):
            use()
        # The one that was caught is in a circle with its frames.
        gc.collect()
        assert seen.pop()() is None
