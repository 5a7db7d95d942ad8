"""How arrays travel: by handle through multiprocessing, by value through plain pickle."""

import concurrent.futures
import copy
import gc
import multiprocessing
import pickle
import random
import subprocess
import sys
import textwrap
from multiprocessing.reduction import ForkingPickler

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import _core, reduction  # noqa: E402
from programs import needs_tracker  # noqa: E402
from test_array import SAMPLES, address_of, exists, in_use, memory_of, name_of, same  # noqa: E402


@pytest.fixture
def made():
    """Makes arrays; fails if shared memory stays in use when they are gone."""
    gc.collect()
    before = in_use()
    yield snp.array
    gc.collect()
    assert in_use() == before


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
    assert same(a, b) and b.strides == a.strides and memory_of(b) == memory_of(a)
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
    assert memory_of(other) == memory_of(a)
    a += 1
    assert same(one, other)


def test_fields_travel(made):
    a = made(SAMPLES["nested"])
    for one in (a["a"], a["a"]["b"], a[["a", "d"]]):
        other = by_handle(one)
        assert same(one, other) and memory_of(other) == memory_of(a)
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
    data = bytes(ForkingPickler.dumps(made(np.zeros(1 << 20))))
    assert len(data) < 400 and pickle.loads(data).size == 1 << 20


def test_dtype_metadata_travels(made):
    a = made(np.zeros(2, np.dtype("f8", metadata={"unit": "m"})))
    assert a.dtype.metadata == {"unit": "m"}
    if pickle.loads(pickle.dumps(a.dtype)).metadata:  # as far as numpy's pickles go
        assert by_handle(a).dtype.metadata == {"unit": "m"}


def test_one_process_maps_memory_once(made):
    a = made(np.zeros(1000))
    views = [by_handle(a[number:]) for number in range(20)]
    assert [address_of(view) - address_of(a) for view in views] == list(range(0, 160, 8))
    assert views[7].size == 993
    assert _core.stats()["held_blocks"] >= 1


class Derived(snp.SharedNDArray):
    pass


def test_derived_classes_travel(made):
    a = made([1, 2, 3]).view(Derived)
    b = by_handle(a)
    assert type(b) is Derived and memory_of(b) == memory_of(a)
    private = a + 0
    assert same(by_handle(private), private)


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


def test_what_was_sent_stays_until_it_is_received_and_dropped():
    a = snp.array([1, 2, 3])
    name = name_of(a)
    data = bytes(ForkingPickler.dumps(a))
    a.unlink(), a.close()
    del a
    assert exists(name)
    b, c = pickle.loads(data), pickle.loads(data)
    b[0] = 9
    del b
    assert c.tolist() == [9, 2, 3] and exists(name)
    c.unlink(), c.close(), c.unlink()
    del c
    assert not exists(name)
    with pytest.raises(_core.StaleHandle, match="given back.*keep a reference"):
        pickle.loads(data)


def test_what_is_on_its_way_shows_and_can_be_given_up():
    before = _core.stats()["in_flight"]
    a = snp.array([1, 2, 3])
    name = name_of(a)
    data = bytes(ForkingPickler.dumps(a))
    assert _core.stats()["in_flight"] == before + 1
    del a
    _core.trim(True)
    assert _core.stats()["in_flight"] == 0 and not exists(name)
    with pytest.raises(LookupError):
        pickle.loads(data)


def test_taking_back_what_arrived_changes_nothing():
    a = snp.array([1, 2, 3])
    name = name_of(a)
    handle, sent = _core.array_send(a)
    opened = _core.array_open(handle, a.itemsize)
    del a
    for _ in range(3):
        sent.withdraw()
    assert exists(name) and bytes(opened[0])[:1] == b"\1"
    del opened
    assert not exists(name)


def test_many_arrays_are_on_their_way_at_once():
    arrays = [snp.full(3, number) for number in range(1000)]
    pickles = [bytes(ForkingPickler.dumps(a)) for a in arrays]
    del arrays
    assert [pickle.loads(data)[0] for data in pickles] == list(range(1000))


# -- handles are distrusted -------------------------------------------------------------


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
    handle, sent = _core.array_send(a)
    sent.withdraw()
    end = tail(80, 0, (10,), (8,))
    assert handle.endswith(end)
    return handle[:-len(end)]


def test_the_bytes_of_a_handle(made):
    a = made(np.arange(24.0).reshape(4, 6))
    for view in (a, a.T, a[::-1, 3:], a[1:1], a[2, 3, ...], a[None]):
        handle, sent = _core.array_send(view)
        sent.withdraw()
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


@needs_tracker
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
    assert exists(name), "the child has it"
    ours.send("dropped")
    assert ours.poll(60)
    b = ours.recv()
    process.join(60)
    assert type(b) is snp.SharedNDArray and b.tolist() == [2, 3]
