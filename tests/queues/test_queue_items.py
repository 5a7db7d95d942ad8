"""What goes through a queue: every kind of object arrives as what it was, and keeps nothing."""

import array
import collections
import datetime
import decimal
import gc
import io
import os
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from array_samples import SAMPLES, memory_of, same, strides  # noqa: E402
from programs import OLD  # noqa: E402
from queue_watch import PATIENCE_S  # noqa: E402


# Around what goes through the ring, around a block, and far beyond.
LENGTHS = [0, 1, 16383, 16384, 16385, 5 << 20]
# Enough elements that an array goes by a block of its own.
MANY = 50000


class Named(collections.namedtuple("Named", "x y")):
    pass


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a, b):
        self.a, self.b = a, b

    def __eq__(self, other):
        return (self.a, self.b) == (other.a, other.b)


class Branded(snp.SharedNDArray):
    """A user's class of shared arrays."""


class MyLock(snp.Lock):
    """Users' classes of what is shared itself."""


class MySemaphore(snp.BoundedSemaphore):
    pass


class MyCondition(snp.Condition):
    pass


class MyNumber(snp.AtomicInt):
    pass


class MyQueue(snp.JoinableQueue):
    pass


class MyLatest(snp.Latest):
    pass


def labelled(number, label):
    result = Labelled()
    result._cell, result.label = number._cell, label
    return result


class Labelled(snp.AtomicInt):
    """One that says itself what is sent."""

    label = None

    def __reduce__(self):
        number = snp.AtomicInt()
        number._cell = self._cell
        return labelled, (number, self.label)


class Titled(np.ndarray):
    """A user's class of ordinary arrays, with something of its own."""

    def __reduce__(self):
        make, args, state = super().__reduce__()
        return make, args, (state, self.title)

    def __setstate__(self, state):
        super().__setstate__(state[0])
        self.title = state[1]


def through(queue, obj):
    """What arrives of it: alone, inside plain data, inside a pickle, and in a batch; all of which are alike."""
    queue.put(obj)
    yield queue.get(timeout=PATIENCE_S)
    queue.put({"it": [obj]})
    yield queue.get(timeout=PATIENCE_S)["it"][0]
    queue.put({int: [obj]})  # a class is no plain data
    (got,) = queue.get(timeout=PATIENCE_S)[int]
    yield got
    assert queue.put_many([obj, 1, (obj,)]) == 3
    first, number, (second,) = queue.get_many(3)
    assert number == 1
    yield first
    yield second
    assert queue.empty()


# -- not arrays ----------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
def test_bytes(queue, length):
    data = (bytes(range(256)) * (length // 256 + 1))[:length]
    for got in through(queue, data):
        assert type(got) is bytes and got == data


@pytest.mark.parametrize("length", LENGTHS)
def test_text_and_byte_arrays(queue, length):
    text = ("caf\u00e9 \U0001f40d \ud800" * (length // 8 + 1))[:length]
    for got in through(queue, text):
        assert type(got) is str and got == text
    data = bytearray(os.urandom(min(length, 4096))) * (length // 4096 or 1)
    for got in through(queue, data):
        assert type(got) is bytearray and got == data
        got += b"!"  # it is the receiver's own


@pytest.mark.parametrize("obj", [
    None, True, 0, -1, 2 ** 62, -2 ** 64, 10 ** 5000, 1.5, 1j, "", (), [], {}, set(), frozenset({1}),
    ..., NotImplemented, int, datetime.datetime(2020, 2, 29, 1, 2, 3, 4), decimal.Decimal("1.10"),
    Named(1, [2]), Slotted("a", {"b": (1,)}), {1: {"two": [3, (4, {5})]}}, array.array("d", [1, 2]),
    range(10 ** 9), collections.OrderedDict([(2, 1), (1, 2)]), slice(1, None, 2), os.path.join,
], ids=lambda obj: type(obj).__name__)
def test_objects(queue, obj):
    for got in through(queue, obj):
        assert type(got) is type(obj) and got == obj


def test_subclasses_of_bytes_stay_what_they_are(queue):
    class_ = type("Bytes", (bytes,), {"__module__": __name__, "__qualname__": "Bytes"})
    globals()["Bytes"] = class_
    for got in through(queue, class_(b"abc")):
        assert type(got) is class_ and got == b"abc"


def test_a_circle_and_what_is_there_twice(queue):
    inner = [1]
    circle = [inner, inner]
    circle.append(circle)
    queue.put(circle)
    got = queue.get(timeout=PATIENCE_S)
    assert got[0] == [1] and got[0] is got[1] and got[2] is got


def test_deeply_nested(queue):
    deep = last = []
    for _ in range(100):
        last.append([])
        last = last[0]
    for got in through(queue, deep):
        assert got == deep


def test_what_pickle_cannot_finish_is_an_error_and_no_more(queue):
    deep = last = []
    for _ in range(100000):
        last.append([])
        last = last[0]
    with pytest.raises(RecursionError):
        queue.put([deep, snp.ones(3)])
    queue.put(1)
    assert queue.get(timeout=PATIENCE_S) == 1
    while deep:  # its own end would be too deep as well, on some versions
        deep = deep.pop()


def test_one_that_fails_to_arrive(queue):
    queue.put_many([Fails(), "next"])
    with pytest.raises(ZeroDivisionError):
        queue.get(timeout=PATIENCE_S)
    assert queue.get(timeout=PATIENCE_S) == "next"
    queue.put([snp.ones(1000), Fails(), np.zeros(MANY), "x" * 100000])
    with pytest.raises(ZeroDivisionError):
        queue.get(timeout=PATIENCE_S)
    assert queue.empty()


class Fails:
    def __reduce__(self):
        return divmod, (1, 0)


def test_a_put_while_something_is_put(queue):
    other = snp.Queue()
    queue.put([snp.zeros(3), Puts(other), snp.ones(3), "x" * 100000])
    zeros, _, ones, text = queue.get(timeout=PATIENCE_S)
    assert zeros.tolist() == [0, 0, 0] and ones.tolist() == [1, 1, 1] and len(text) == 100000
    assert [each.tolist() for each in other.get(timeout=PATIENCE_S)] == [[2], [3, 3]]
    other.close()


class Puts:
    """Puts something elsewhere while it is pickled."""

    def __init__(self, queue):
        self.queue = queue

    def __reduce__(self):
        self.queue.put([snp.full(1, 2), snp.full(2, 3)])
        return int, ()


class Gets:
    """Gets something while it is unpickled."""

    pending = []

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return arrive, (self.number,)


def arrive(number):
    return Gets.pending[number].get(timeout=PATIENCE_S)


def test_a_get_while_something_is_got(queue):
    other = snp.Queue()
    other.put([snp.full(2, 7)])
    Gets.pending[:] = [other]
    queue.put([snp.zeros(2), Gets(0), snp.ones(2)])
    zeros, sevens, ones = queue.get(timeout=PATIENCE_S)
    assert [a.tolist() for a in (zeros, sevens[0], ones)] == [[0, 0], [7, 7], [1, 1]]
    del Gets.pending[:]
    other.close()


# -- things that are shared themselves -----------------------------------------------


def test_locks_and_their_kin(queue):
    lock, event, number = snp.Lock(), snp.Event(), snp.AtomicInt(5)
    condition, semaphore = snp.Condition(), snp.Semaphore(2)
    queue.put({"all": [lock, event, number, condition, semaphore, lock]})
    got = queue.get(timeout=PATIENCE_S)["all"]
    with got[0]:
        assert not lock.acquire(False)
    event.set()
    assert got[1].is_set()
    assert got[2].add() == number.load() == 6
    with got[3]:
        pass
    assert got[4].acquire(False) and got[4].acquire(False) and not semaphore.acquire(False)
    assert got[0] is got[5]


@pytest.mark.parametrize("make", [
    MyLock, lambda: MySemaphore(3), MyCondition, lambda: MyNumber(7), MyQueue, lambda: MyLatest((2, 3))])
def test_classes_of_ones_own_of_what_is_shared(queue, make):
    one = make()
    for got in through(queue, one):
        assert type(got) is type(one)
    assert type(ForkingPickler.loads(ForkingPickler.dumps(one))) is type(one)
    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(one)
    if type(one) is MyNumber:
        assert got.add() == one.load() == 8


def test_classes_of_ones_own_that_say_what_is_sent(queue):
    one = Labelled(1)
    one.label = "A"
    for got in list(through(queue, one)) + [ForkingPickler.loads(ForkingPickler.dumps(one))]:
        assert (type(got), got.label) == (Labelled, "A")
        assert got.add() == one.load()


def test_a_queue_to_answer_to(queue):
    for kind in (snp.Queue, snp.JoinableQueue, snp.SimpleQueue):
        reply = kind()
        queue.put(("request", reply))
        del reply
        gc.collect()
        word, reply = queue.get(timeout=PATIENCE_S)
        assert type(reply) is kind
        reply.put(word)
        assert reply.get() == "request"


def test_a_queue_in_itself(queue):
    queue.put(queue)
    got = queue.get(timeout=PATIENCE_S)
    got.put(1)
    assert queue.get(timeout=PATIENCE_S) == 1


def test_a_queue_that_was_put_with_things_in_it_keeps_them(queue):
    inner = snp.Queue()
    inner.put_many([snp.ones(3), "x" * 100000, np.zeros(MANY)])
    queue.put(inner)
    del inner
    gc.collect()
    inner = queue.get(timeout=PATIENCE_S)
    ones, text, zeros = inner.get_many(9)
    assert ones.tolist() == [1, 1, 1] and len(text) == 100000 and len(zeros) == MANY


def test_a_newest_frame_channel(queue):
    latest = snp.Latest((2, 3), "f4")
    queue.put(latest)
    got = queue.get(timeout=PATIENCE_S)
    latest.publish(np.ones((2, 3), "f4"))
    assert got.read().tolist() == [[1, 1, 1]] * 2


def test_named_arrays(queue):
    name = "queue_items_{}".format(os.getpid())
    a = snp.ndarray((3, 4), "i4", name=name)
    try:
        a[:] = 5
        for got in through(queue, a[1:, ::2]):
            assert type(got) is snp.SharedNDArray and got.tolist() == [[5, 5], [5, 5]]
            got[0, 0] = 6
            assert a[1, 0] == 6
            got[0, 0] = 5
    finally:
        a.unlink()


def test_memory_with_a_name(queue):
    from shared_numpy import shared_memory
    memory = shared_memory.SharedMemory(create=True, size=100)
    try:
        queue.put([memory])
        got, = queue.get(timeout=PATIENCE_S)
        memory.buf[7] = 77
        assert got.name == memory.name and got.buf[7] == 77
        got.close()
    finally:
        memory.close()
        memory.unlink()


# -- arrays --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_ordinary_arrays(queue, kind):
    a = SAMPLES[kind]
    for got in through(queue, a):
        assert type(got) is np.ndarray and same(a, got)


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_shared_arrays(queue, kind):
    a = snp.array(SAMPLES[kind], copy=True)
    for view in (a, a[...], a.T, a[::-1] if a.ndim else a):
        for got in through(queue, view):
            assert type(got) is snp.SharedNDArray and same(view, got)
            assert strides(got) == strides(view) and got.flags.writeable
            assert memory_of(got) == memory_of(a)


@pytest.mark.parametrize("dtype", list(np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"))
def test_each_dtype_of_numbers(queue, dtype):
    for length in (5, MANY):
        a = np.arange(length).astype(dtype)
        for each in (a, a[::-2], a.astype(a.dtype.newbyteorder()), a.reshape(-1, 5).T):
            for got in through(queue, each):
                assert type(got) is np.ndarray and same(each, got)
        for got in through(queue, snp.array(a)):
            assert type(got) is snp.SharedNDArray and same(a, got)


LARGE = {
    "C": np.arange(MANY * 4.0).reshape(4, MANY),
    "F": np.asfortranarray(np.arange(MANY * 4).reshape(4, MANY)),
    "every other": np.arange(MANY * 2)[::2],
    "backwards": np.arange(MANY)[::-1],
    "big-endian": np.arange(MANY, dtype=">i8"),
    "structured": np.ones(MANY, dtype=[("x", "i4"), ("y", "f8", 2)]),
    "text": np.full(MANY, "abcdef"),
    "datetime": np.arange(MANY).astype("M8[s]"),
    "broadcast": np.broadcast_to(np.arange(4.0), (MANY, 4)),
    "no elements": np.empty((0, MANY)),
}


@pytest.mark.parametrize("kind", sorted(LARGE))
def test_large_ordinary_arrays_are_the_receivers_own(queue, kind):
    a = LARGE[kind]
    before = a.copy()
    for got in through(queue, a):
        assert type(got) is np.ndarray and same(a, got) and got.flags.writeable
        assert got.flags.f_contiguous == a.flags.f_contiguous or not a.flags.forc
        got.fill(0) if got.dtype.names is None else got.__setitem__(Ellipsis, np.zeros((), got.dtype))
        assert same(a, before)


def test_large_ordinary_arrays_are_not_copied_on_arrival(queue):
    queue.put(np.ones(MANY))
    queue.put({"a": np.ones(MANY), "b": [np.ones(MANY, ">f8")]})
    before = snp.stats()["in_use_bytes"]
    lone, nested = queue.get(), queue.get()
    # They lie in the blocks that they came in.
    assert snp.stats()["in_use_bytes"] == before
    for got in (lone, nested["a"], nested["b"][0]):
        assert got.base is not None and not got.flags.owndata
    del lone, nested, got
    gc.collect()
    assert snp.stats()["in_use_bytes"] <= before - 3 * 8 * MANY


def test_read_only_arrays(queue):
    shared = snp.array(np.arange(5))
    shared.flags.writeable = False
    for got in through(queue, shared):
        assert type(got) is snp.SharedNDArray and not got.flags.writeable
        assert memory_of(got) == memory_of(shared)
    plain = np.arange(MANY)
    plain.flags.writeable = False
    for got in through(queue, plain):
        assert same(got, plain)


@pytest.mark.parametrize("length", [3, MANY])
def test_arrays_of_objects_go_by_value(queue, length):
    a = np.empty(length, object)
    a[0], a[1] = [1, 2], snp.ones(3)
    for got in through(queue, a):
        assert type(got) is np.ndarray and got.dtype == object and got[0] == [1, 2] and got[2] is None
        assert type(got[1]) is snp.SharedNDArray and got[1].tolist() == [1, 1, 1]
    records = np.array([(1, "x"), (2, None)], dtype=[("n", int), ("o", object)])
    for got in through(queue, records):
        assert got.tolist() == records.tolist()


@pytest.mark.parametrize("length", [4, MANY])
def test_classes_of_ordinary_arrays(queue, length, tmp_path):
    matrix = np.matrix(np.arange(length).reshape(2, -1))
    masked = np.ma.masked_array(np.arange(length), mask=np.arange(length) % 2 == 0)
    titled = np.arange(length).view(Titled)
    titled.title = "of its own"
    file = np.memmap(str(tmp_path / "file"), dtype="f8", mode="w+", shape=(length,))
    file[:] = 3
    records = np.rec.array([(1, 2.0)] * length, dtype=[("x", "i4"), ("y", "f8")])
    for got in through(queue, matrix):
        assert type(got) is np.matrix and (got == matrix).all()
    for got in through(queue, masked):
        assert type(got) is np.ma.MaskedArray and (got.mask == masked.mask).all() and got.sum() == masked.sum()
    for got in through(queue, titled):
        assert type(got) is Titled and got.title == "of its own" and (got == titled).all()
    for got in through(queue, file):
        assert (np.asarray(got) == 3).all()
        got[0] = 4
        assert file[0] == 3
    for got in through(queue, records):
        assert type(got) is np.recarray and (got.x == 1).all()


@pytest.mark.parametrize("length", [4, MANY])
def test_classes_of_shared_arrays(queue, length):
    branded = snp.array(np.arange(length)).view(Branded)
    for got in through(queue, branded):
        assert type(got) is Branded and (got == branded).all()
    elsewhere = np.arange(length).view(Branded)
    for got in through(queue, elsewhere):
        assert (np.asarray(got) == np.arange(length)).all()


def test_shared_arrays_as_other_classes(queue):
    a = snp.array(np.arange(6.0).reshape(2, 3))
    for got in through(queue, a.view(np.ndarray)):
        assert type(got) is np.ndarray and same(got, a)
    for got in through(queue, np.asarray(a)):
        assert type(got) is np.ndarray and same(got, a)
    for got in through(queue, a.view(np.matrix)):
        assert type(got) is np.matrix and same(got, a)


def test_scalars_and_dtypes(queue):
    for obj in (np.float32(1.5), np.datetime64("2020-01-01"), np.dtype("i4,f8"), np.int8, np.str_("x"), np.bool_(True)):
        for got in through(queue, obj):
            assert type(got) is type(obj) and got == obj


def test_metadata_of_a_dtype(queue):
    dtype = np.dtype("f8", metadata={"unit": "m"})
    for a in (np.ones(3, dtype), snp.array(np.ones(3, dtype)), np.ones(MANY, dtype)):
        for got in through(queue, a):
            assert same(got, a)


@pytest.mark.parametrize("length", [3, MANY])
def test_numbers_that_have_fields(queue, length):
    dtype = np.dtype((np.int32, [("low", "i2"), ("high", "i2")]))
    a = np.arange(length).astype(dtype)
    assert a.dtype.names == ("low", "high")
    for each in (a, a[::-1], snp.array(a), snp.array(a)[::2]):
        for got in through(queue, each):
            assert got.dtype.names == each.dtype.names and got.dtype.kind == "i"
            assert same(each, got) and (got["high"] == each["high"]).all()


@pytest.mark.parametrize("count", [1, 20])
def test_many_views_of_an_array_are_one_hold(queue, count):
    arrays = [snp.array(np.arange(1000.0)) for _ in range(count)]
    queue.put([[a[number:] for a in arrays] for number in range(20)])
    assert snp.stats()["in_flight"] == count
    got = queue.get(timeout=PATIENCE_S)
    assert snp.stats()["in_flight"] == 0
    for number, (a, views) in enumerate(zip(arrays, zip(*got))):
        views[19][0] = -1 - number
        assert views[0][19] == a[19] == -1 - number
        assert {memory_of(each) for each in views} == {memory_of(a)}


def test_an_array_that_is_there_twice_is_one_object(queue):
    for a in (snp.zeros(3), np.zeros(3), np.zeros(MANY)):
        queue.put([a, a])
        one, two = queue.get(timeout=PATIENCE_S)
        assert one is two


def test_a_thousand_arrays(queue):
    queue.put([snp.full(3, number) for number in range(1000)])
    gc.collect()
    got = queue.get(timeout=PATIENCE_S)
    assert all((a == number).all() for number, a in enumerate(got)) and len(got) == 1000
    queue.put_many(got)
    again = queue.get_many(2000)
    assert all((a == number).all() for number, a in enumerate(again)) and len(again) == 1000
    again[5][0] = -1
    assert got[5][0] == -1


def test_what_the_receiver_does_to_an_array_the_sender_sees(queue):
    a = snp.zeros((4, 5))
    queue.put({"it": a[1:3, ::-1]})
    got = queue.get(timeout=PATIENCE_S)["it"]
    got[0, 0] = 9
    assert a[1, 4] == 9


# -- pickle 5 ------------------------------------------------------------------------


class Buffers:
    """What data frames look like to pickle: a part that says what it is, and large buffers."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce_ex__(self, protocol):
        assert protocol >= 5
        return Buffers, tuple(pickle.PickleBuffer(part) for part in self.parts)


@pytest.mark.skipif(OLD, reason="protocol 5 of pickle")
@pytest.mark.parametrize("length", LENGTHS)
def test_buffers_beside_the_pickle(queue, length):
    data = (bytes(range(256)) * (length // 256 + 1))[:length]
    for got in through(queue, Buffers(bytearray(data), data, array.array("B", data))):
        assert [bytes(part) for part in got.parts] == [data] * 3
        assert memoryview(got.parts[1]).readonly and not memoryview(got.parts[0]).readonly
    shared = snp.array(np.frombuffer(bytearray(data), "u1"))
    for got in through(queue, [Buffers(bytearray(data)), shared, np.frombuffer(data, "u1")]):
        assert bytes(got[0].parts[0]) == data and got[1].tobytes() == data and got[2].tobytes() == data


@pytest.mark.skipif(OLD, reason="protocol 5 of pickle")
def test_buffers_that_are_not_in_one_piece(queue):
    a = np.arange(MANY).reshape(-1, 5)
    for got in through(queue, Buffers(np.asfortranarray(a))):
        assert sorted(np.frombuffer(got.parts[0], a.dtype)) == list(range(MANY))
    with pytest.raises((pickle.PicklingError, BufferError)):
        queue.put([snp.ones(3), Buffers(a[::2, ::2]), np.ones(MANY)])
    queue.put(1)
    assert queue.get(timeout=PATIENCE_S) == 1


@pytest.mark.skipif(OLD, reason="protocol 5 of pickle")
def test_a_buffer_that_stays_when_the_object_is_gone(queue):
    queue.put(Buffers(bytearray(b"x") * 100000))
    view = memoryview(queue.get(timeout=PATIENCE_S).parts[0])
    gc.collect()
    assert bytes(view) == b"x" * 100000
    view[0] = 1


def test_a_file_in_memory(queue):
    for got in through(queue, io.BytesIO(b"x" * 100000)):
        assert got.getvalue() == b"x" * 100000


def test_frames_of_pandas(queue):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": np.arange(MANY), "y": ["a"] * MANY})
    for got in through(queue, frame):
        assert got.equals(frame)


def test_sizes_that_do_not_fit_the_first_ring(queue):
    """Far more than the ring has room for, small and large in turns."""
    sent = [bytes([number % 256]) * (number * 37 % 20000) for number in range(300)]
    for item in sent:
        queue.put(item)
    assert queue.qsize() == 300
    assert [queue.get() for _ in sent] == sent
    queue.put(1)  # gives back what was needed at the fullest
    assert queue.get() == 1
