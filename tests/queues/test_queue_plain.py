"""Plain data takes no pickle, and arrives as if it had."""

import collections
import math
import os
import pickle
import struct
import sys
import threading
import warnings

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from array_samples import memory_of, same  # noqa: E402
from queue_watch import PATIENCE_S, kept  # noqa: E402
from shared_numpy import reduction  # noqa: E402


class Text(str):
    """A user's class; so are the next ones."""


class Number(int):
    pass


class Entries(dict):
    pass


class Row(list):
    pass


class Pair(tuple):
    pass


def called_by(work):
    """What `work()` gives, and the names of the Python functions that ran meanwhile."""
    names = []

    def note(frame, event, _arg):
        if event == "call" and frame.f_code is not work.__code__:
            names.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        result = work()
    finally:
        sys.setprofile(None)
    return result, names


def nested(depth):
    """A list in a list, and so on."""
    outer = []
    for _ in range(depth - 1):
        outer = [outer]
    return outer


PLAIN = [
    None, True, False, 0, -1, 127, 128, 2 ** 63 - 1, -2 ** 63, 0.0, -0.0, math.inf, 5e-324,
    "", "text", "caf\u00e9 \U0001f40d\0", "x" * 16384, [b"", b"\0", b"x" * 16384],
    (), (1,), [], {}, [[]], [()], ({},), {"a": {"b": [1, (2.5, None)]}}, [True, 1, 1.0],
    {1: 1, 1.5: 2, "1": 3, b"1": 4, (1, "1"): 5, None: 6},
    list(range(255)), dict.fromkeys(range(100), "again"), nested(32),
]
NOT_PLAIN = [
    2 ** 63, -2 ** 63 - 1, "\ud800", "x" * 16385, b"x" * 16385,
    1j, {1, 2}, frozenset(), bytearray(b"x"), range(3), int, collections.OrderedDict(a=1), np.float64(1.5), np.bool_(True),
    Text("x"), Number(1), Entries(a=1), Row([1]), Pair((1,)),
    list(range(256)), tuple(range(1024)), nested(33),
]


def name(obj):
    """Short enough for a test's name."""
    return "{} {:.20}".format(type(obj).__name__, ascii(obj))


@pytest.mark.parametrize("obj", PLAIN, ids=name)
def test_plain_data_is_not_pickled(queue, obj):
    def there_and_back():
        queue.put(obj)
        return queue.get(timeout=PATIENCE_S)

    got, called = called_by(there_and_back)
    assert called == []
    assert type(got) is type(obj) and ascii(got) == ascii(obj)


@pytest.mark.parametrize("obj", NOT_PLAIN, ids=name)
def test_everything_else_is(queue, obj):
    for outer in (obj, [obj], {"key": (obj,)}):
        def there_and_back(outer=outer):
            queue.put(outer)
            return queue.get(timeout=PATIENCE_S)

        got, called = called_by(there_and_back)
        if type(outer) is not bytes:
            assert reduction.dumps_for_queue.__name__ in called
        assert type(got) is type(outer) and ascii(got) == ascii(outer)
        if outer is not obj:
            inner = got["key"][0] if type(outer) is dict else got[0]
            assert type(inner) is type(obj)


def test_numbers_keep_every_bit(queue):
    odd, = struct.unpack("<d", struct.pack("<Q", 0x7ff8000000000123))
    queue.put([odd, -0.0])
    got = queue.get(timeout=PATIENCE_S)
    assert struct.pack("<dd", *got) == struct.pack("<dd", odd, -0.0)


def test_what_is_there_twice_arrives_once(queue):
    a, row, text, data, pair = np.arange(3.0), [1], "some text", b"some bytes", (1, "x")
    shared = snp.ones(5)
    obj = [a, row, text, data, pair, shared, {"again": [a, row, text, data, pair, shared]}]
    queue.put(obj)
    got = queue.get(timeout=PATIENCE_S)
    assert all(one is other for one, other in zip(got[:6], got[6]["again"]))
    assert got[1:5] == obj[1:5] and same(got[0], a) and same(got[5], shared)
    got[0][0] = 7
    assert got[6]["again"][0][0] == 7 and a[0] == 0


def test_views_of_one_array_share_its_memory_on_the_other_side_too(queue):
    a = snp.zeros((4, 4))
    queue.put({"whole": a, "row": a[1], "turned": a[::-1].T})
    got = queue.get(timeout=PATIENCE_S)
    assert memory_of(got["whole"]) == memory_of(got["row"]) == memory_of(a)
    got["whole"][1, 2] = 5
    assert a[1, 2] == got["row"][2] == got["turned"][2, 2] == 5


def test_circles(queue):
    row, entries = [], {}
    row += [entries, row]
    entries["row"] = row
    queue.put(row)
    got = queue.get(timeout=PATIENCE_S)
    assert got[1] is got and got[0]["row"] is got and len(got) == 2
    row.append((row,))  # a tuple that leads to itself
    queue.put(row[2])
    got = queue.get(timeout=PATIENCE_S)
    assert type(got) is tuple and got[0][2] is got and got[0][1] is got[0]
    for each in (row, entries):
        each.clear()


@pytest.mark.parametrize("make", [
    lambda: np.arange(50000.0), lambda: np.asfortranarray(np.arange(60000, dtype="i2").reshape(200, 300)),
    lambda: np.arange(50000)[::-3], lambda: np.arange(12).reshape(3, 4)[:, ::2], lambda: np.arange(9)[4:4],
    lambda: np.arange(60, dtype="u1").reshape(3, 4, 5)[::-1, 1:, ::-2].transpose(2, 0, 1), lambda: np.arange(40, dtype="i2")[::7],
    lambda: np.arange(24, dtype="c16").reshape(4, 6).T[::2], lambda: np.arange(9, dtype=np.clongdouble)[::4],
    lambda: np.frombuffer(bytes(range(100)), "u1", 80, 3).view([("a", "u1"), ("b", "f4")])["b"],
    lambda: np.array(7), lambda: np.zeros((3, 0, 5), "c16"), lambda: np.broadcast_to(np.float32(2), (70, 80)),
])
def test_ordinary_arrays_arrive_as_ordinary_arrays(queue, make):
    a = make()
    queue.put({"frame": a, "number": 3})
    got = queue.get(timeout=PATIENCE_S)
    assert got["number"] == 3 and type(got["frame"]) is np.ndarray and same(got["frame"], a)
    assert got["frame"].flags.writeable
    if a.size:
        got["frame"][...] = 0  # the receiver's own
        assert (a == make()).all()


def test_small_arrays_in_pieces_are_copied_and_take_no_memory_of_their_own(queue):
    table = np.arange(4000.0).reshape(1000, 4)
    for obj in ([table[:, 1]], [table[:, 0], table[::2, 3]]):
        _, in_flight = kept()
        queue.put(obj[0] if len(obj) == 1 else obj)
        assert kept()[1] == in_flight
        got = queue.get(timeout=PATIENCE_S)
        for one, other in zip([got] if len(obj) == 1 else got, obj):
            assert same(one, other) and one.flags.owndata and one.flags.c_contiguous


def test_many_objects_are_plain_data_if_arrays_are_among_them(queue):
    obj = [np.arange(3)] + list(range(800))
    got, called = called_by(lambda: queue.put(obj) or queue.get(timeout=PATIENCE_S))
    assert called == [] and got[1:] == obj[1:] and same(got[0], obj[0])


def test_keys_that_are_made_of_tuples_that_are_there_twice(queue):
    key = ("a",)
    for _ in range(12):
        key = (key, key)
    for obj in ({key: 1}, [key[0][0], {key[0][0]: 2}], {(1, ("x", 2.5)): (key[0], key[0])}):
        queue.put(obj)
        assert queue.get(timeout=PATIENCE_S) == obj


def test_a_named_array_after_a_large_one_does_not_have_that_copied_twice(queue, monkeypatch):
    name = "queue_plain_{}".format(os.getpid())
    named, large = snp.ndarray(5, name=name), np.arange(50000)
    named[:] = 3
    copied, copy = [], reduction._arrays().array
    monkeypatch.setattr(reduction._arrays(), "array", lambda a: copied.append(a) or copy(a))
    try:
        queue.put([large, named])
        got = queue.get(timeout=PATIENCE_S)
        assert len(copied) == 1 and same(got[0], large) and got[1].tolist() == [3] * 5
    finally:
        named.unlink()


def test_arrays_that_are_not_of_plain_numbers_are_pickled(queue):
    for a in (np.array(["a", None, 3], object), np.array([(1, 2.5)], "i4,f8"), np.array(["x", "yz"]),
              np.arange(3, dtype=">u4"), np.array(["2020-02-29"], "M8[D]")):
        queue.put({"it": a, "shared": snp.ones(3)})
        got = queue.get(timeout=PATIENCE_S)
        assert got["it"].dtype == a.dtype and (got["it"] == a).all() and got["shared"].tolist() == [1, 1, 1]


def test_who_changes_a_container_while_its_arrays_are_copied_is_too_late(queue, monkeypatch):
    copy = reduction._arrays().array
    for make, change in (
            (lambda a: [a, 1, 2], list.clear), (lambda a: {"a": a, "b": 1}, dict.clear),
            (lambda a: [a, a[:3]], lambda it: it[1].fill(0) or it.reverse())):
        obj = make(np.arange(50000.0))

        # Where another thread, a signal's handler or a finaliser may run.
        def copy_and_change(a, obj=obj, change=change):
            copied = copy(a)
            change(obj)
            return copied

        with monkeypatch.context() as patch:
            patch.setattr(reduction._arrays(), "array", copy_and_change)
            queue.put([snp.ones(5), obj])
        ones, got = queue.get(timeout=PATIENCE_S)
        assert len(got) == len(make(np.zeros(3))) and ones.tolist() == [1] * 5
        assert (got["a"] if type(got) is dict else got[0]).sum() == 49999 * 25000
        if type(got) is list and len(got) == 2:
            assert got[1].tolist() == [0, 0, 0]  # an array may be changed until put has returned


def test_an_array_that_becomes_another_while_one_is_copied(queue, monkeypatch):
    first, second = np.arange(50000.0), np.arange(4)
    copy = reduction._arrays().array

    def copy_and_change(a):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated in NumPy 2.5
            second.dtype = "u4,u4"  # no plain number
        return copy(a)

    monkeypatch.setattr(reduction._arrays(), "array", copy_and_change)
    queue.put([first, second])
    got = queue.get(timeout=PATIENCE_S)
    assert same(got[0], first) and got[1].dtype == second.dtype and (got[1] == second).all()


def test_threads_that_change_what_others_put(queue):
    obj, done = {"frame": np.zeros(300000), "numbers": []}, threading.Event()

    def change():
        while not done.is_set():
            obj["numbers"].append(1)
            obj[len(obj)] = "x"
            if len(obj) > 50:
                for key in list(obj)[2:]:
                    del obj[key]
                del obj["numbers"][:]

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            queue.put(obj)
            got = queue.get(timeout=PATIENCE_S)
            assert set(got["numbers"]) <= {1} and len(got["frame"]) == 300000
            assert set(list(got.values())[2:]) <= {"x"}
    finally:
        done.set()
        thread.join()
    queue.put(obj)
    assert len(queue.get(timeout=PATIENCE_S)) == len(obj)


def test_data_that_is_larger_than_the_ring(queue):
    rows = [{"row": [number] * 3, "text": "x" * 10000} for number in range(100)]
    rows = [dict(each, text=each["text"] + str(number)) for number, each in enumerate(rows)]
    queue.put(rows)
    assert queue.get(timeout=PATIENCE_S) == rows


def test_a_batch_is_all_or_nothing_before_anything_is_put(queue):
    with pytest.raises(TypeError):
        queue.put_many([{"a": snp.ones(3)}, [np.zeros(50000)], threading.Lock()])
    assert queue.empty()


def test_the_same_as_pickle_makes_of_it(queue):
    obj = {"a": [1, 2.5, "x", b"y", (None, True)], "b": {"c": ["x", "x"]}}
    queue.put(obj)
    got = queue.get(timeout=PATIENCE_S)
    assert got == pickle.loads(pickle.dumps(obj)) and list(got) == list(obj)
