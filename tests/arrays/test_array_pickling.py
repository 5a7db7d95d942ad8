"""How arrays are pickled: by handle through multiprocessing, by value through plain pickle; how long what was sent stays."""

import copy
import pickle
import subprocess
import sys
import textwrap
from multiprocessing.reduction import ForkingPickler

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import _core  # noqa: E402
from array_samples import SAMPLES, address_of, by_handle, exists, memory_of, name_of, same  # noqa: E402


VIEWS = [
    lambda a: a, lambda a: a[1:], lambda a: a[::-1, ::-2], lambda a: a.T, lambda a: a[:, 1:3].T[::-1],
    lambda a: a.reshape(-1)[5:], lambda a: a[1, 2, ...], lambda a: a[0:0], lambda a: a[:, :, None],
    lambda a: np.broadcast_to(a, (2,) + a.shape, subok=True), lambda a: a.view("u1")[:, 3::8],
    lambda a: a.view("i4,f4"), lambda a: a.reshape(-1)[:2].view("c16"),
]


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


def measured(array, unit):
    result = array.view(Measured)
    result.unit = unit
    return result


class Measured(snp.SharedNDArray):
    """With something that travels along, beside the handle."""

    unit = None

    def __reduce__(self):
        return measured, (self.view(snp.SharedNDArray), self.unit)


class Titled(snp.SharedNDArray):
    """As NumPy's manual has it, by value."""

    title = None

    def __reduce__(self):
        make, args, state = super().__reduce__()
        return make, args, (state, self.title)

    def __setstate__(self, state):
        super().__setstate__(state[0])
        self.title = state[1]


class Counted(snp.SharedNDArray):
    count = 0

    def __reduce_ex__(self, protocol):
        type(self).count += 1
        return super().__reduce_ex__(protocol)


class MoreCounted(Counted):
    pass


def by_queue(obj):
    queue = snp.Queue()
    queue.put(obj)
    return queue.get()


def by_value(obj, protocol=pickle.HIGHEST_PROTOCOL):
    return pickle.loads(pickle.dumps(obj, protocol))


@pytest.mark.parametrize("send", [by_handle, by_queue])
def test_derived_classes_may_say_what_is_sent(made, send):
    a = made([1, 2, 3])
    b = send(measured(a, "mm"))
    assert (type(b), b.unit) == (Measured, "mm") and memory_of(b) == memory_of(a)
    [b] = send([measured(a[::2], "mm")])
    assert (type(b), b.unit) == (Measured, "mm") and memory_of(b) == memory_of(a)


@pytest.mark.parametrize("send", [by_handle, by_queue] + [
    lambda obj, protocol=protocol: by_value(obj, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)])
def test_derived_classes_may_say_what_is_sent_by_value(made, send):
    for a in (made(np.arange(6).reshape(2, 3)).view(Titled), np.arange(6).reshape(3, 2).T.view(Titled)):
        a.title = "A"
        b = send(a)
        assert (type(b), b.title) == (Titled, "A") and same(a, b) and not np.may_share_memory(a, b)
    for kind in (Counted, MoreCounted):
        kind.count = 0
        a = made([1, 2, 3]).view(kind)
        b = send(a)
        assert type(b) is kind and same(a, b) and kind.count == 1


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


def test_many_arrays_are_on_their_way_at_once():
    arrays = [snp.full(3, number) for number in range(1000)]
    pickles = [bytes(ForkingPickler.dumps(a)) for a in arrays]
    del arrays
    assert [pickle.loads(data)[0] for data in pickles] == list(range(1000))
