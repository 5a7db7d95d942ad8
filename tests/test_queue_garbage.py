"""Random and mutated bytes where a queue's items are: errors at worst, whatever they say.

The core's own test of that (`queue_garbage.rs`) knows nothing of arrays and pickles, which
are read here. What comes out lies inside its memory, and others' memory is as it was.
"""

import gc
import pickle
import random
import struct

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import Queue, _core  # noqa: E402
from array_samples import address_of  # noqa: E402
from test_array_garbage import mutated  # noqa: E402

ERRORS = (ValueError, LookupError, TypeError, RuntimeError, EOFError, BufferError, pickle.UnpicklingError)
ROUNDS = 1500
# The last bytes of items.
PICKLE, BUFFERS, BYTES, COPY, HELD, PLAIN = range(6)


def bounds(a):
    """The first byte of an array, and the one after its last."""
    low = high = address_of(a)
    if a.size:
        for length, stride in zip(a.shape, a.strides):
            low += min(0, (length - 1) * stride)
            high += max(0, (length - 1) * stride)
        high += a.itemsize
    return low, high


def look(obj, dtypes=None):
    """Checks that an array lies inside its memory, and writes to all of it if that is not too much. Of containers,
    all that are in them."""
    pending, seen = [obj], {}
    while pending:
        one = pending.pop()
        if id(one) not in seen:
            seen[id(one)] = one
            if isinstance(one, np.ndarray):
                look_at_array(one, dtypes)
            elif isinstance(one, dict):
                pending += list(one) + list(one.values())
            elif isinstance(one, (list, tuple)):
                pending += one
    return isinstance(obj, np.ndarray)


def look_at_array(obj, dtypes):
    """As `look`."""
    assert dtypes is None or obj.dtype in dtypes
    low, high = bounds(obj)
    memory = _core.array_memory(obj)
    if memory is None:
        assert obj.flags.owndata and obj.nbytes <= high - low
    else:
        with memoryview(memory) as view:
            whole = np.frombuffer(view, "u1")
            assert address_of(whole) <= low <= high <= address_of(whole) + len(whole)
            del whole
    if obj.size < 1 << 16:
        obj.tobytes()
        if obj.flags.writeable:
            obj[...] = 0


class Place:
    """What stands for an array in the pickle that a queue makes of it, changed."""

    def __init__(self, a, change):
        self.a, self.change = a, change

    def __reduce__(self):
        function, arguments = _core.queue_reduce(self.a)
        return function, (self.change(arguments[0]),) + arguments[1:]


@pytest.fixture
def a():
    gc.collect()
    before = snp.stats()["held_blocks"]
    # Its neighbours: whoever writes beyond it is noticed.
    made = [snp.array(np.arange(48, dtype="u1").reshape(6, 8)) for _ in range(5)]
    yield made[2]
    del made[2]
    assert all((one == np.arange(48).reshape(6, 8)).all() for one in made), "somebody wrote"
    del made
    gc.collect()  # exceptions that were caught refer to frames that refer to arrays
    snp.trim(True)
    # pytest keeps the one that it was given. (Its size is not told by the array's: a block is used again as it is.)
    assert snp.stats()["held_blocks"] <= before + 1


@pytest.mark.parametrize("seed", range(3))
def test_small_arrays(seed):
    chance = random.Random(seed)
    goods = []
    for one in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((3, 2, 2), "u2")), np.array(7j),
                np.empty((0, 5), "i4"), np.ones(300, bool)):
        function, (place,) = _core.queue_reduce(one)
        assert (function(place) == one).all()
        goods.append(place)
    made = 0
    for turn in range(ROUNDS):
        bad = mutated(chance, chance.choice(goods))
        if turn % 10 == 0:
            bad = bytes(chance.randrange(256) for _ in range(chance.randrange(40)))
        if chance.randrange(2):
            bad += bytes((COPY,))
        try:
            made += look(_core.queue_array(bad))
        except ERRORS:
            pass
    assert 0 < made < ROUNDS


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", ["u1", "u2,u2"])
def test_places_of_shared_arrays(a, seed, dtype):
    # A structure is no plain number: its place is read by another function.
    chance = random.Random(seed)
    a = a.view(dtype)
    views = [a, a[::-1], a.T, a[1:, ::2], a[:0], a[None, 3], np.broadcast_to(a[:1, :1], (3, 4), subok=True)]
    queue = Queue()
    made = 0
    for turn in range(ROUNDS):
        view = chance.choice(views)

        def change(place, turn=turn):
            bad = mutated(chance, place) if turn % 10 else bytes(
                chance.randrange(256) for _ in range(chance.randrange(40)))
            return bad + bytes((HELD,)) if chance.randrange(2) else bad

        queue.put(Place(view, change))
        try:
            made += look(queue.get())
        except ERRORS:
            pass
    assert 0 < made < ROUNDS
    queue.put(view)
    assert (queue.get() == view).all() and queue.empty()


class Record:
    """The first record of a queue, in the queue's own memory."""

    def __init__(self, queue):
        self._memory = _core.array_open(queue._send(), 1)[0]
        self.view = memoryview(self._memory)

    @classmethod
    def place(cls):
        """Where the first record of any queue begins."""
        queue = Queue()
        queue.put(b"here it is")
        record = cls(queue)
        at = record.view.tobytes().index(b"here it is") - 16
        record.close()
        assert queue.get() == b"here it is"
        return at

    def close(self):
        self.view.release()
        del self._memory


SAMPLES = [
    lambda a: b"bytes, many of them",
    lambda a: np.arange(40, dtype="u1"),
    lambda a: a,
    lambda a: a[::-1, 3:],
    lambda a: [a, a.T, "and more"],
    lambda a: {"small": np.arange(3.0), "structure": a.view("u4,u4")},
    lambda a: {"text": "caf\u00e9", 7: [None, True, -(2 ** 40), (1.5, ())], b"": [a.T, np.ones((2, 2)), a, "text"]},
    # In blocks of their own:
    lambda a: bytes(range(5)) * 5000,
    lambda a: np.frombuffer(b"N." + bytes(range(5)) * 5000, "u1"),
    lambda a: np.frombuffer(b"N." + bytes(range(5)) * 5000, "u1")[:20000].reshape(100, 200).T,
]


@pytest.mark.parametrize("sample", range(len(SAMPLES)))
def test_whole_items(a, sample):
    chance = random.Random(sample)
    at = Record.place()
    for _ in range(ROUNDS // 5):
        queue = Queue()
        queue.put(SAMPLES[sample](a))
        record = Record(queue)
        length, shape = struct.unpack_from("<QQ", record.view, at)
        handles, is_in_block = shape >> 32 & 0xffff, shape >> 48 & 1
        start = at + 16 + 80 * handles
        if is_in_block:
            # The block is out of reach from here; what is its end is not.
            length = chance.choice((0, 1, length - 1, length + 1, 1 << 40, (1 << 64) - 1,
                                    chance.randrange(length), chance.randrange(length)))
        else:
            good = record.view[start:start + length].tobytes()
            if chance.randrange(4) == 0:
                bad = bytes(chance.randrange(256) for _ in range(length))
            else:
                # Of the same length: cut at its beginning, for the end says most.
                bad = mutated(chance, good)[-length:].rjust(length, b"\0")
            if chance.randrange(2):
                bad = bad[:-1] + bytes((chance.randrange(6),))
            if bad[-1] in (PICKLE, BUFFERS) and length > 4:
                bad = b"N." + bad[2:]  # to unpickle garbage is to run it
            record.view[start:start + length] = bad
            if chance.randrange(4) == 0:
                length = chance.randrange(length + 1)
                if length and bad[length - 1] in (PICKLE, BUFFERS):
                    record.view[start:start + 2] = b"N."
        struct.pack_into("<Q", record.view, at, length)
        record.close()
        try:
            look(queue.get(timeout=10))
        except ERRORS:
            pass
        assert queue.empty()
        queue.put([a])
        assert (queue.get()[0] == a).all()
    snp.trim(True)


def test_a_key_that_would_take_for_ever_to_hash():
    none, tuple_, list_, dict_, again = 0, 7, 8, 9, 11
    # [(), (the one before, again), ..., {the last one: None}]: a key of 2 ** 60 tuples in a few bytes.
    objects = bytes([list_, 62, tuple_, 0])
    objects += b"".join(bytes([tuple_, 2, again, number, again, number]) for number in range(1, 61))
    objects += bytes([dict_, 1, again, 61, none])
    item = objects + struct.pack("<I", len(objects)) + bytes([PLAIN])
    at = Record.place()
    queue = Queue()
    queue.put(b"x" * (len(item) - 1))
    record = Record(queue)
    record.view[at + 16:at + 16 + len(item)] = item
    record.close()
    with pytest.raises(ValueError):
        queue.get(timeout=10)
    assert queue.empty()
