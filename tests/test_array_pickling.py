"""How arrays travel: by handle through multiprocessing, by value through plain pickle."""

import concurrent.futures
import copy
import gc
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import textwrap
from multiprocessing.reduction import ForkingPickler

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import reduction  # noqa: E402
from test_array import SAMPLES, exists, name_of, same  # noqa: E402

from shared_numpy.shared_memory import SharedMemory  # noqa: E402


@pytest.fixture
def made():
    """Makes arrays and unlinks them when the test is over."""
    arrays = []

    def make(*arguments, **keywords):
        arrays.append(snp.array(*arguments, **keywords))
        return arrays[-1]

    yield make
    for a in arrays:
        a.unlink()


# What pickling a lambda raises; the type differs from version to version.
UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)


def by_handle(a):
    return ForkingPickler.loads(ForkingPickler.dumps(a))


VIEWS = [
    lambda a: a, lambda a: a[1:], lambda a: a[::-1, ::-2], lambda a: a.T, lambda a: a[:, 1:3].T[::-1],
    lambda a: a.reshape(-1)[5:], lambda a: a[1, 2, ...], lambda a: a[0:0], lambda a: a[:, :, None],
    lambda a: np.broadcast_to(a, (2,) + a.shape, subok=True), lambda a: a.view("u1")[:, 3::8],
    lambda a: a.view("i4,f4"), lambda a: a.reshape(-1)[:2].view("c16"),
]


# -- by handle --------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(SAMPLES))
def test_every_kind_travels(made, key):
    a = made(SAMPLES[key])
    b = by_handle(a)
    assert type(b) is snp.SharedNDArray
    assert same(a, b) and b.strides == a.strides and name_of(b) == name_of(a)
    assert b.dtype.fields == a.dtype.fields and b.dtype.isalignedstruct == a.dtype.isalignedstruct
    if a.size and a.dtype.itemsize:
        a.reshape(-1).view("u1")[:1] ^= 1
        assert same(a, b), "the same memory"


@pytest.mark.parametrize("view", range(len(VIEWS)))
@pytest.mark.parametrize("order", ["C", "F"])
def test_views_travel_as_views_of_the_same_memory(made, view, order):
    a = made(np.arange(24.0).reshape(4, 6), order=order)
    try:
        one = VIEWS[view](a)
    except ValueError:
        pytest.skip("numpy refuses this dtype for this order")
    if type(one) is np.ndarray:
        pytest.skip("numpy copies for this order")
    other = by_handle(one)
    assert type(other) is snp.SharedNDArray
    assert other.shape == one.shape and other.strides == one.strides and other.dtype == one.dtype
    assert other.flags.writeable == one.flags.writeable
    assert name_of(other) == name_of(a)
    a += 1
    assert same(one, other)


def test_fields_travel(made):
    a = made(SAMPLES["nested"])
    for one in (a["a"], a["a"]["b"], a[["a", "d"]]):
        other = by_handle(one)
        assert same(one, other) and name_of(other) == name_of(a)
    by_handle(a["a"]["b"])[...] = 7
    assert (a["a"]["b"] == 7).all()


def test_read_only_views_arrive_read_only(made):
    a = made([1, 2, 3])
    view = a[:]
    view.flags.writeable = False
    other = by_handle(view)
    with pytest.raises(ValueError):
        other[0] = 1
    assert by_handle(a).flags.writeable


def test_a_handle_is_small_whatever_the_size(made):
    assert len(bytes(ForkingPickler.dumps(made(np.zeros(1 << 20))))) < 400


def test_dtype_metadata_travels(made):
    a = made(np.zeros(2, np.dtype("f8", metadata={"unit": "m"})))
    assert a.dtype.metadata == {"unit": "m"}
    if pickle.loads(pickle.dumps(a.dtype)).metadata:  # as far as numpy's pickles go
        assert by_handle(a).dtype.metadata == {"unit": "m"}


def test_one_process_maps_a_segment_once(made):
    a = made(np.zeros(1000))
    views = [by_handle(a[number:]) for number in range(20)]
    with open("/proc/self/maps") as lines:
        assert sum(name_of(a).lstrip("/") in line for line in lines) == 1
    assert views[7].size == 993


class Derived(snp.SharedNDArray):
    pass


def test_derived_classes_travel(made):
    a = made([1, 2, 3]).view(Derived)
    b = by_handle(a)
    assert type(b) is Derived and name_of(b) == name_of(a)
    private = a + 0
    assert same(by_handle(private), private)
    gone = Derived((2,))
    gone.unlink()
    copied = by_handle(gone)
    assert type(copied) is Derived and name_of(copied) != name_of(gone)
    copied.unlink()


# -- by value -----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_values(made, protocol):
    a = made(np.arange(12.0).reshape(3, 4))
    for one in (a, a.T, a[::-1], a[1:, ::2], a[0, 0, ...], a[:0]):
        data = pickle.dumps(one, protocol)
        assert b"shared_numpy" not in data and name_of(a)[1:].encode() not in data
        other = pickle.loads(data)
        assert type(other) is np.ndarray and same(one, other)


def test_plain_pickles_need_no_shared_numpy(made):
    data = pickle.dumps(made([1, 2, 3]), 2)
    code = """
        import pickle, sys
        a = pickle.loads(bytes.fromhex(sys.argv[1]))
        assert a.tolist() == [1, 2, 3] and "shared_numpy" not in sys.modules
    """
    subprocess.check_call([sys.executable, "-c", textwrap.dedent(code), data.hex()])


def test_copies_are_values(made):
    a = made([1, 2, 3])
    for other in (copy.copy(a), copy.deepcopy(a), copy.deepcopy({"a": [a]})["a"][0]):
        assert type(other) is np.ndarray and other.flags.owndata
        assert same(a, other) and not np.may_share_memory(a, other)


@pytest.mark.skipif(pickle.HIGHEST_PROTOCOL < 5, reason="pickle 5 is of Python 3.8")
def test_out_of_band_buffers_are_values(made):
    a = made(np.arange(1000))
    buffers = []
    data = pickle.dumps(a, 5, buffer_callback=buffers.append)
    assert len(data) < 1000 and len(buffers) == 1
    other = pickle.loads(data, buffers=[bytes(buffers[0])])
    assert type(other) is np.ndarray and same(a, other)


# -- how long a sent array lives ------------------------------------------------------


def test_what_was_sent_stays_until_it_is_unlinked():
    a = snp.array([1, 2, 3])
    name = name_of(a)
    data = bytes(ForkingPickler.dumps(a))
    del a
    assert exists(name)
    b, c = pickle.loads(data), pickle.loads(data)
    b.close()
    b.unlink()
    assert not exists(name)
    b[0] = 9
    assert c.tolist() == [9, 2, 3]
    c.unlink(), c.close(), b.unlink()


def test_a_handle_whose_array_is_gone_names_the_remedy():
    a = snp.array([1, 2, 3])
    data = bytes(ForkingPickler.dumps(a))
    a.unlink()
    with pytest.raises(FileNotFoundError, match="is gone.*unlink.*after the last receiver"):
        pickle.loads(data)


def test_an_unlinked_array_is_sent_as_a_copy():
    a = snp.array([1, 2, 3])
    a.unlink()
    b = by_handle(a[1:])
    assert type(b) is snp.SharedNDArray and b.tolist() == [2, 3]
    assert name_of(b) != name_of(a)
    b.unlink()


def test_a_pickle_that_reached_nobody_keeps_nothing():
    a = snp.array([1, 2, 3])
    name = name_of(a)
    _, published = reduction.dumps([a, {"again": a[1:]}])
    published.withdraw()
    published.withdraw()
    with pytest.raises(UNPICKLABLE):
        reduction.dumps([a, lambda: None])
    del a, published
    gc.collect()
    assert not exists(name)


# -- handles are distrusted -------------------------------------------------------------


@pytest.mark.parametrize("offset, shape, strides, dtype", [
    (8, (10,), (8,), "f8"), (-8, (1,), (8,), "f8"), (0, (11,), (8,), "f8"),
    (0, (2,), (-8,), "f8"), (72, (10,), (-8,), "c16"), (0, (5,), (2 ** 62,), "f8"),
    (0, (3, 3), (2 ** 63 - 1, -2 ** 63), "f8"), (0, (2 ** 62,), (2 ** 62,), "f8"),
    (81, (0,), (8,), "f8"), (0, (-1,), (8,), "f8"), (0, (10,), (8, 8), "f8"),
    (0, (10, 2), (8,), "f8"), (2 ** 63 - 1, (1,), (1,), "u1"), (0, (), (), "S81"),
])
def test_handles_that_point_outside_are_refused(made, offset, shape, strides, dtype):
    name = name_of(made(np.zeros(10)))
    with pytest.raises(ValueError):
        reduction._open(name, offset, shape, strides, dtype, True, None)


def test_other_bad_handles_are_refused(made):
    name = name_of(made(np.zeros(10)))
    for dtype in (object, [("a", object)]):
        with pytest.raises(TypeError):
            reduction._open(name, 0, (1,), (8,), dtype, True, None)
    with pytest.raises((OverflowError, ValueError)):
        reduction._open(name, 2 ** 70, (1,), (8,), "f8", True, None)
    for bad in ("/snp_nothing_of_the_kind", "/nothing/there", ""):
        with pytest.raises((ValueError, OSError)):
            reduction._open(bad, 0, (1,), (8,), "f8", True, None)


def test_segments_of_another_kind_are_refused():
    shm = SharedMemory(create=True, size=4096)
    try:
        with pytest.raises(ValueError, match="does not hold an array"):
            reduction._open(shm._name, 0, (1,), (8,), "f8", True, None)
    finally:
        shm.unlink()


def test_garbage_in_the_trailer_is_an_exception_at_worst(made):
    a = made(np.zeros(10))
    data = bytes(ForkingPickler.dumps(a))
    raw = SharedMemory(name_of(a))
    intact = bytes(raw.buf[80:104])
    assert intact[:8] == struct.pack("=Q", 0x736e706172726179)
    for place in (80, 88):
        for garbage in (b"\xff" * 8, b"\0" * 8, os.urandom(8)):
            raw.buf[place:place + 8] = garbage
            with pytest.raises(ValueError):
                pickle.loads(data)
            raw.buf[80:104] = intact
    for garbage in (b"\xff" * 8, b"\x7f" * 8, os.urandom(8)):
        raw.buf[96:104] = garbage
        b = by_handle(a)
        assert same(a, b)
        if name_of(b) != name_of(a):
            b.unlink()
    raw.buf[80:104] = intact


def test_views_that_numpy_does_not_check_are_ordinary(made):
    a = made(np.zeros(10))
    beyond = np.lib.stride_tricks.as_strided(a, (100,), subok=True)
    assert type(beyond) is np.ndarray


# -- between processes -------------------------------------------------------------------


def double_in_place(a):
    assert type(a) is snp.SharedNDArray
    a *= 2


def make_and_return(number):
    return snp.full((2, 3), number)


def sum_of(a):
    return type(a).__name__, float(a.sum())


def send_and_exit(connection):
    connection.send({"made": snp.array([[1, 2], [3, 4]], order="F")})
    connection.close()


def test_process_arguments(context):
    a = snp.array(np.arange(6.0).reshape(2, 3))
    process = context.Process(target=double_in_place, args=(a.T[1:],))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert a.tolist() == [[0, 2, 4], [3, 8, 10]]
    a.unlink()


def test_pipe(context):
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=send_and_exit, args=(send,))
    process.start()
    process.join(60)
    a = receive.recv()["made"]
    assert type(a) is snp.SharedNDArray and a.tolist() == [[1, 2], [3, 4]] and a.flags.f_contiguous
    a.unlink()


def test_pool(context):
    a = snp.ones((4, 5))
    with context.Pool(2) as pool:
        assert pool.map(sum_of, [a, a[1:], a[:, 0]]) == [
            ("SharedNDArray", 20.0), ("SharedNDArray", 15.0), ("SharedNDArray", 4.0)]
        results = pool.map(make_and_return, range(3))
        pool.close()
        pool.join()
    for number, result in enumerate(results):
        assert type(result) is snp.SharedNDArray and (result == number).all()
        result.unlink()
    a.unlink()


@pytest.mark.skipif(sys.version_info < (3, 7), reason="executors take a context since 3.7")
def test_executor(context):
    a = snp.ones(10)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        executor.submit(double_in_place, a).result(60)
        made = executor.submit(make_and_return, 5).result(60)
    assert (a == 2).all() and (made == 5).all() and type(made) is snp.SharedNDArray
    a.unlink()
    made.unlink()


def inherited(a, connection):
    connection.recv()  # the parent has dropped it
    connection.send(a[1:])
    connection.close()


def test_a_fork_child_may_send_what_its_parent_dropped():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    a = snp.array([1, 2, 3])
    name = name_of(a)
    process = context.Process(target=inherited, args=(a, theirs), daemon=True)
    process.start()
    del a
    process.__dict__.pop("_args", None)  # older versions keep the arguments
    gc.collect()
    assert not exists(name), "nobody was told the name"
    ours.send("dropped")
    assert ours.poll(60)
    b = ours.recv()
    process.join(60)
    assert type(b) is snp.SharedNDArray and b.tolist() == [2, 3]
    b.unlink()
