"""Arrays in one process: every kind of input, what is shared and what is not, and how long it lives."""

import copy
import gc
import inspect
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import _core  # noqa: E402
from shared_numpy.shared_memory import SharedMemory  # noqa: E402

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


@pytest.fixture(params=sorted(SAMPLES))
def sample(request):
    return SAMPLES[request.param]


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


# -- making ---------------------------------------------------------------------


def test_from_array_copies_any_dtype_and_layout(sample):
    made = snp.from_array(sample)
    assert type(made) is snp.SharedNDArray
    assert same(made, sample)
    assert made.flags.writeable and made.flags.aligned
    assert strides(made) == strides(np.array(sample, order="K"))
    before = made.tobytes()
    if sample.flags.writeable and sample.size and sample.dtype.names is None:
        sample.reshape(-1).view()[...] = sample.reshape(-1)[::-1].copy()
        assert made.tobytes() == before, "a copy"


def test_dtype_keeps_titles_offsets_and_alignment():
    for key in ("offsets and titles", "aligned", "nested"):
        sample = SAMPLES[key]
        made = snp.from_array(sample)
        assert made.dtype.fields == sample.dtype.fields
        assert made.dtype.isalignedstruct == sample.dtype.isalignedstruct


@pytest.mark.parametrize("order", ["C", "F", "A", "K", None])
def test_order_is_numpys(sample, order):
    made = snp.array(sample, order=order)
    like = np.array(sample, order=order)
    assert strides(made) == strides(like) and same(made, like)
    assert made.flags.f_contiguous == like.flags.f_contiguous


@pytest.mark.parametrize("arguments", [
    dict(object=[1, 2, 3]),
    dict(object=[[1, 2], [3, 4]], dtype="f4", order="F"),
    dict(object=5),
    dict(object=b"abc"),
    dict(object="text", ndmin=2),
    dict(object=[1.5, 2.5], dtype=int),
    dict(object=np.arange(3), dtype="S"),
    dict(object=["2020-01-01", "2021-05"], dtype="M8"),
    dict(object=[("a", 1)], dtype=[("name", "U5"), ("n", "i8")]),
    dict(object=range(4), ndmin=3),
    dict(object=np.arange(6).reshape(2, 3).T, ndmin=4),
    dict(object=np.array([1, 2], dtype=object), dtype=float),
    dict(object=memoryview(b"xyz")),
    dict(object=np.arange(6), dtype=">c16"),
    dict(object=np.float32(2)),
    dict(object=[]),
    dict(object=[[], []]),
])
def test_array_is_like_numpys(arguments):
    made, like = snp.array(**arguments), np.array(**arguments)
    assert type(made) is snp.SharedNDArray
    assert same(made, like)
    assert strides(made) == strides(like)


def test_array_takes_positional_arguments_as_numpy_does():
    assert same(snp.array([1, 2], "f4"), np.array([1, 2], "f4"))


def test_copy_false_returns_what_fits():
    made = snp.array([[1.0, 2.0], [3.0, 4.0]])
    assert snp.array(made, copy=False) is made
    assert snp.array(made, dtype=float, copy=None) is made
    assert snp.array(made, copy=False, order="F") is not made
    assert snp.array(made, copy=False, dtype="f4") is not made
    assert snp.array(made) is not made


@pytest.mark.parametrize("shape", [(), (0,), 3, (2, 3), [4, 0, 2], (1, 2, 3, 4), np.int16(2)])
@pytest.mark.parametrize("dtype", ["f4", ">i8", "U3", "S", "U", "M8[s]", "i4,f8", ("f4", (2, 3)), "V0"])
@pytest.mark.parametrize("order", [None, "C", "F"])
def test_makers_are_numpys(shape, dtype, order):
    like = np.zeros(shape, dtype, order or "C")
    dirty(like.nbytes)
    made = snp.zeros(shape, dtype, order or "C")
    assert same(made, like)
    for maker in (snp.ndarray, snp.empty, snp.SharedNDArray, snp.zeros):
        made = maker(shape, dtype, order)
        assert type(made) is snp.SharedNDArray
        assert strides(made) == strides(like)
        assert made.shape == like.shape and made.dtype == like.dtype
        assert name_of(made)


NUMBERS = ["?", "b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", "e", "f", "d", "g", "F", "D", "G"]


@pytest.mark.parametrize("code", NUMBERS)
@pytest.mark.parametrize("shape", [0, 1, 1000, (), (0,), (3,), (2, 3, 4), (2, 0, 4), (1,) * 32])
def test_quick_arguments_give_what_numpy_gives(shape, code):
    like = np.zeros(shape, code)
    for dtype in (code, np.dtype(code), np.dtype(code).type, np.dtype(code).name):
        for order in ("C", "F"):
            numpys = np.empty(shape, dtype, order)
            dirty(numpys.nbytes)
            for made in (snp.zeros(shape, dtype, order), snp.empty(shape, dtype=dtype, order=order),
                         snp.ndarray(shape=shape, dtype=dtype, order=order)):
                assert type(made) is snp.SharedNDArray and type(made.base) is _core.Exporter
                assert made.dtype is numpys.dtype or made.dtype == numpys.dtype
                assert made.shape == numpys.shape and strides(made) == strides(numpys)
                for flag in ("c_contiguous", "f_contiguous", "writeable", "aligned"):
                    assert getattr(made.flags, flag) == getattr(numpys.flags, flag), flag
                assert not made.flags.owndata and address_of(made) % 64 == 0
            assert same(snp.zeros(shape, dtype, order), like)


@pytest.mark.parametrize("nbytes", [1, 64, 1000, 1 << 16, (1 << 20) + 1, 5 << 20])
def test_recycled_memory_is_filled(nbytes):
    for make in (lambda: snp.zeros(nbytes, "u1"), lambda: snp.zeros([nbytes], ">u1"),
                 lambda: snp.zeros_like(np.empty(nbytes, "u1")),
                 lambda: snp.zeros((1, nbytes), dtype="V1", order="F"),
                 lambda: snp.zeros((), "S{}".format(nbytes))):
        dirty(nbytes)
        assert not np.frombuffer(memoryview(make().base), "u1").any()
    dirty(nbytes)
    assert (snp.ones(nbytes, "u1") == 1).all()
    dirty(nbytes)
    assert (snp.full(nbytes, 7, "u1") == 7).all()
    dirty(nbytes)
    assert (snp.full_like(np.empty(nbytes, "i1"), -1) == -1).all()


class Three:
    def __index__(self):
        return 3


class HasDtype:
    dtype = np.dtype("f4")


@pytest.mark.parametrize("arguments", [
    ((2, Three()),), ([2, 3],), (np.array([2, 3]),), (np.int8(3),), (range(2, 4),),
    (3, HasDtype), (3, None), (3, "i4,f8"), (3, "M8[s]"), (3, ("f4", (2, 2))), (3, ">f8"), (3, int),
    (3, float), (3, bool), (3, complex), (3, "u1", "c"), (3, "u1", "f"),
])
def test_other_arguments_give_what_numpy_gives(arguments):
    like = np.empty(*arguments)
    for maker in (snp.empty, snp.zeros, snp.ndarray):
        assert maker(Three()).shape == (3,)
        made = maker(*arguments)
        assert type(made) is snp.SharedNDArray
        assert (made.shape, made.dtype, strides(made)) == (like.shape, like.dtype, strides(like))


def test_makers_are_called_as_python_functions_are():
    for maker in (snp.empty, snp.zeros, snp.ndarray):
        assert str(inspect.signature(maker)).startswith("(shape, dtype=None, order=")
        assert maker.__module__ == "shared_numpy.arrays" and "shared memory" in maker.__doc__
        assert pickle.loads(pickle.dumps(maker)) is maker
        for arguments, keywords in [
                ((), {}), ((), {"dtype": "u1"}), ((1, "u1", "C", None), {}), ((1,), {"shape": 1}),
                ((1, "u1"), {"dtype": "u1"}), ((1,), {"like": None}), ((1,), {"device": "cpu"})]:
            with pytest.raises(TypeError, match="argument"):
                maker(*arguments, **keywords)
        made = maker(**{"".join(["dt", "ype"]): "u1", "".join(["sh", "ape"]): (2, 3)})  # not interned
        assert (made.shape, made.dtype, type(made)) == ((2, 3), "u1", snp.SharedNDArray)
        assert maker(2, order="F", dtype=np.int16).dtype == "i2"


def test_makers_wear_out_no_object():
    # References to types and dtypes: one too few a call would free them in the end.
    watched = [snp.SharedNDArray, np.ndarray, np.dtype("u1"), np.uint8, _core.Exporter]

    def counts():
        gc.collect()
        return [sys.getrefcount(each) for each in watched]

    def work():
        for _ in range(1000):
            snp.empty(3, np.uint8), snp.zeros((2, 2), "u1"), snp.ndarray(shape=5, dtype=np.dtype("u1"))
            snp.empty([3], ">i4")

    work()
    before = counts()
    work()
    assert all(abs(now - then) < 5 for now, then in zip(counts(), before))


def test_views_of_makers_arrays_have_the_hook():
    a = snp.empty((4, 4), "f8")
    assert type(a[1:]) is snp.SharedNDArray and type(a + 1) is np.ndarray
    assert type(a.view(np.ndarray)) is np.ndarray and type(a.copy()) is np.ndarray
    with pytest.raises((AttributeError, TypeError)):
        a.note = "no dictionary, as in numpy"


def test_defaults_are_numpys():
    assert snp.ndarray(2).dtype == float
    assert snp.zeros((2, 2)).dtype == snp.ones(1).dtype == snp.empty(1).dtype == float
    assert snp.full(2, 7).dtype == np.full(2, 7).dtype
    assert same(snp.full((2, 2), "ab", order="F"), np.full((2, 2), "ab"))
    assert same(snp.ones((2, 3), "i2"), np.ones((2, 3), "i2"))
    assert same(snp.full(3, np.datetime64("2020-01-01")), np.full(3, np.datetime64("2020-01-01")))
    assert type(snp.SharedNDArray((2, 3), "i4")) is snp.SharedNDArray
    assert snp.SharedNDArray((2, 3)).dtype == float


@pytest.mark.parametrize("prototype", [
    np.arange(24.0).reshape(2, 3, 4), np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    np.asfortranarray(np.ones((2, 3))), np.array(5), np.empty((0, 3)), [[1, 2], [3, 4]],
    np.arange(24).reshape(4, 6)[::-1, ::2],
])
@pytest.mark.parametrize("order", ["C", "F", "A", "K"])
def test_likes_are_numpys(prototype, order):
    for name in ("zeros_like", "ones_like", "empty_like"):
        dirty(np.asarray(prototype).nbytes)
        made = getattr(snp, name)(prototype, order=order)
        like = getattr(np, name)(prototype, order=order)
        assert type(made) is snp.SharedNDArray
        assert made.dtype == like.dtype and made.shape == like.shape
        assert strides(made) == strides(like)
        if name != "empty_like":
            assert same(made, like)
    assert same(snp.full_like(prototype, 3, dtype="f4"), np.full_like(prototype, 3, dtype="f4"))
    assert same(snp.zeros_like(prototype, shape=(5, 1)), np.zeros((5, 1), np.asarray(prototype).dtype))
    assert same(snp.zeros_like(prototype, shape=3), np.zeros(3, np.asarray(prototype).dtype))


@pytest.mark.filterwarnings("ignore")
def test_matrix_and_record_arrays_give_their_data():
    assert same(snp.array(np.matrix([[1, 2], [3, 4]])), np.array([[1, 2], [3, 4]]))
    records = np.rec.array([(1, 2.0), (3, 4.0)], dtype="i4,f8")
    made = snp.array(records)
    assert type(made) is snp.SharedNDArray and same(made, np.asarray(records))


# -- refusing -------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: snp.array([object()]),
    lambda: snp.array([1], dtype=object),
    lambda: snp.ndarray(2, dtype=object),
    lambda: snp.ndarray(2, dtype=[("a", "i4"), ("b", object)]),
    lambda: snp.ndarray(2, dtype=[("a", [("b", "O", (2,))])]),
    lambda: snp.zeros_like(np.array([None])),
    lambda: snp.full(2, None),
])
def test_python_objects_are_refused(make):
    before = in_use()
    with pytest.raises(TypeError, match="cannot be shared.*fixed size"):
        make()
    assert in_use() <= before


@pytest.mark.skipif(not hasattr(getattr(np, "dtypes", None), "StringDType"), reason="numpy 2 only")
def test_strings_of_variable_width_are_refused():
    with pytest.raises(TypeError, match="cannot be shared"):
        snp.array(["a"], dtype=np.dtypes.StringDType())


def test_masked_arrays_are_refused():
    with pytest.raises(TypeError, match="mask would be lost.*filled"):
        snp.array(np.ma.array([1, 2], mask=[0, 1]))


@pytest.mark.parametrize("shape, dtype", [
    (-1, "i1"), ((2, -3), "i1"), (2 ** 62, "i8"), ((2 ** 40, 2 ** 40), "i1"),
    ((0, 2 ** 62, 2 ** 62), "i8"), ((1,) * 65, "i1"),
])
def test_impossible_shapes_are_value_errors(shape, dtype):
    before = in_use()
    for maker in (snp.ndarray, snp.empty, snp.zeros):
        with pytest.raises(ValueError):
            maker(shape, dtype)
        with pytest.raises(ValueError):
            maker(shape, np.dtype(dtype).type)
    assert in_use() <= before


def test_bad_arguments():
    with pytest.raises(TypeError):
        snp.ndarray(2.5)
    with pytest.raises(ValueError, match="order"):
        snp.ndarray(2, order="K")
    with pytest.raises(ValueError, match="order"):
        snp.array([1], order="x")
    for dtype in ("no such dtype", b"no such dtype", 5, Exception()):
        with pytest.raises(TypeError):
            snp.ndarray(2, dtype)
    with pytest.raises(TypeError):
        snp.ndarray(2, "u1", 5)


def test_more_memory_than_there_is_is_an_error_that_leaves_nothing():
    before = in_use()
    for maker in (snp.ndarray, snp.empty, snp.zeros):
        with pytest.raises((OSError, MemoryError), match=str(1 << 55)):
            maker(1 << 55, "u1")
        with pytest.raises((OSError, MemoryError), match=str(1 << 55)):
            maker([1 << 55], "V1")
    assert in_use() == before


# -- memory ---------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    "snp.from_array(big)", "snp.array(big)", "snp.array(big[::-1].T, order='C')",
    "snp.array(big, dtype='f4')", "snp.ndarray(big.shape)", "snp.zeros_like(big)",
    "snp.full(big.shape, 1.5)",
])
def test_no_temporary_copy(make):
    # In a process of its own, whose peak of private memory is looked at from inside.
    code = """
        import sys, tracemalloc
        import numpy as np
        import shared_numpy as snp

        big = np.ones((1024, 4096))
        big.flags.writeable = False
        def private_kib():
            with open("/proc/self/status") as lines:
                return [int(line.split()[1]) for line in lines if line.startswith("RssAnon")][0]
        a = snp.array([1])
        tracemalloc.start()
        before = private_kib()
        a = %s
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < 2 << 20, peak
        assert private_kib() - before < 4 << 10
        assert a.size == big.size
    """ % make
    subprocess.check_call([sys.executable, "-c", textwrap.dedent(code)])


# -- what is shared, what is not ---------------------------------------------------


VIEWS = """
    a[1:]  a[::-1]  a[1]  a[...,0]  a[None]  a[0,0,...]  a.T  a.swapaxes(0,1)  a.reshape(4,3)
    a.reshape(-1)  a.ravel()  a.view('i8')  a.view()  a.squeeze()  a.diagonal()  a.real
    a.astype(float,copy=False)  np.transpose(a)  np.reshape(a,-1)  np.split(a,2,axis=1)[1]
    np.broadcast_to(a,(2,3,4),subok=True)  np.asanyarray(a)  np.asarray(a).view(S)  np.rot90(a)
    np.flip(a,0)  np.atleast_3d(a)  np.add(a,1,out=a)  np.sum(a,axis=0,out=a[0])
    np.moveaxis(a,0,1)  np.expand_dims(a,0)  a[:,1:3][::-1]  a.getfield('f4',4)
""".split()

RESULTS = """
    a+1  a*a  -a  a==a  a@a.T  a.sum()  a.sum(axis=0)  a.mean()  a.mean(axis=1)  a.std(axis=0)  a.var()
    np.sum(a)  np.mean(a,axis=0)  a.max()  a.min(axis=0)  a.all()  a.any(axis=0)  a.argmax()
    a.argmax(axis=0)  a.argsort()  a.cumsum()  a.cumsum(axis=0)  a[[0,1]]  a[a>2]  a[0,0]  a.copy()
    a.flatten()  a.T.ravel()  a.T.reshape(-1)  a.astype('f4')  a.take([1])  a.repeat(2)  a.nonzero()[0]
    a.clip(0,1)  a.round()  a.byteswap()  a.trace()  a.dot(a.T)  a.imag  a.flat[1:3]  a.flat[[1]]
    a.compress([1,0,1],axis=0)  a[0].searchsorted([1.])  a[0]+a[1]  divmod(a,2)[0]
    np.dot(a,a.T)  np.inner(a,a)  np.outer(a,a)  np.tensordot(a,a.T,1)  np.einsum('ij,ij->i',a,a)
    np.copy(a)  np.array(a)  np.array(a,subok=True)  np.concatenate([a,a])  np.stack([a,a])
    np.where(a>1,a,a)  np.zeros_like(a)  np.ones_like(a)  np.full_like(a,3)
    np.sort(a)  np.unique(a)  np.tile(a,2)  np.pad(a,1,'constant')  np.round(a,1)  np.median(a)
    np.percentile(a,3,axis=0)  np.cov(a)  np.kron(a,a)  np.gradient(a[0])  np.interp(a[0],a[1],a[2])
    np.linalg.inv(a[:3,:3]+np.eye(3))  np.linalg.solve(a[:3,:3]+np.eye(3),a[:,0])  np.linalg.svd(a)[1]
    np.linalg.det(a[:3,:3])  np.linalg.norm(a)  np.fft.fft(a)  np.apply_along_axis(sum,0,a)
    np.vectorize(float)(a)  np.modf(a)[0]  np.frexp(a)[1]  np.add.reduce(a)  np.add.accumulate(a)
    np.add.outer(a,a)  np.add.reduceat(a,[0,1])  np.add(a[0,0,...],1)  np.asarray(a)  np.ma.array(a).data+0
    np.zeros(3).view(S)  copy.copy(a)  copy.deepcopy(a)  pickle.loads(pickle.dumps(a[::-1].T,4))
""".split()


def evaluate(expression, a, shared):
    return eval(expression, {"a": a, "np": np, "copy": copy, "pickle": pickle,
                             "S": shared, "sum": sum, "divmod": divmod})


def values(shared):
    a = np.arange(12.0).reshape(3, 4)
    return snp.array(a) if shared else a


@pytest.mark.parametrize("expression", VIEWS)
def test_views_are_shared(expression):
    a = values(True)
    view = evaluate(expression, a, snp.SharedNDArray)
    assert type(view) is snp.SharedNDArray
    assert memory_of(view) == memory_of(a)
    assert np.may_share_memory(view, a)
    assert same(view, evaluate(expression, values(False), np.ndarray))


@pytest.mark.parametrize("expression", RESULTS)
@pytest.mark.filterwarnings("ignore")
def test_results_are_ordinary(expression):
    ours = evaluate(expression, values(True), snp.SharedNDArray)
    numpys = evaluate(expression, values(False), np.ndarray)
    assert type(ours) is type(numpys)
    assert same(ours, numpys)


def test_fields_are_shared():
    a = snp.array(SAMPLES["nested"])
    for view in (a["a"], a["a"]["b"], a[["a", "d"]], a[0:1]["d"]):
        assert type(view) is snp.SharedNDArray and memory_of(view) == memory_of(a)
    assert type(a[0]) is np.void


def test_operators_in_place_stay_shared():
    a = values(True)
    b = a
    b += 1
    b[1:] *= 2
    assert b is a and type(a) is snp.SharedNDArray and name_of(b)
    assert a[2, 3] == 24


@pytest.mark.filterwarnings("ignore")
def test_mixing_with_other_array_classes():
    a = values(True)
    assert type(a + np.matrix(np.ones((3, 4)))) is np.matrix
    masked = np.ma.array(a, mask=a > 3)
    assert type(masked.data) is snp.SharedNDArray and type(masked + 1) is type(masked)
    assert isinstance((masked + 1).data, np.ndarray) and type((masked + 1).data) is np.ndarray


def test_many_results_do_not_wear_out_the_type():
    # Each result gave back one reference to the type; too many would free it.
    a = values(True)
    gc.collect()
    before = sys.getrefcount(snp.SharedNDArray)
    for _ in range(1000):
        a.copy(), a[1:], a[[0]], np.empty_like(a), a.T.ravel(), a.view()
    gc.collect()
    assert abs(sys.getrefcount(snp.SharedNDArray) - before) < 5


@pytest.mark.filterwarnings("ignore")
def test_shape_and_dtype_can_be_set():
    a = values(True)
    view = a[:]
    view.shape = (4, 3)
    view.dtype = "i8"
    assert type(view) is snp.SharedNDArray and memory_of(view) == memory_of(a)


class Derived(snp.SharedNDArray):
    def __array_finalize__(self, parent):
        super().__array_finalize__(parent)
        self.note = getattr(parent, "note", "new")


def test_classes_can_be_derived():
    a = snp.array([1, 2]).view(Derived)
    a.note = "mine"
    assert type(a[:1]) is Derived and a[:1].note == "mine"
    assert a.shm.name and a.close() is None
    a.unlink()
    assert type(Derived((2,), "i4")) is Derived
    assert pickle.loads(pickle.dumps(a)).tolist() == [1, 2]


# -- how long it lives ---------------------------------------------------------------


def test_what_was_never_sent_goes_with_its_last_view():
    a = snp.array([1, 2, 3])
    name = name_of(a)
    view = a[1:]
    del a
    assert exists(name)
    del view
    assert not exists(name)


def test_an_array_stays_usable_whatever_was_closed():
    a = snp.array([1, 2, 3])
    shm = a.shm
    view = a[1:]
    for call in (a.close, a.unlink, view.close, a.close, view.unlink, a.unlink, shm.unlink, shm.close,
                 shm.close, shm.unlink, a.shm.close, a.shm.unlink, a.unlink, a.close):
        call()
        a[0] += 1
        assert a.tolist()[1:] == [2, 3] == view.tolist()
    gc.collect()
    assert a[0] == 15 and exists(name_of(a))


def test_shm_is_the_memory():
    a = snp.array(np.arange(4, dtype="u1"))
    shm = a.shm
    assert isinstance(shm, SharedMemory)
    assert shm.name and "/" not in shm.name and a.shm.name == shm.name
    assert shm.size == 4 and bytes(shm.buf) == b"\0\1\2\3"
    shm.buf[0] = 9
    assert a[0] == 9
    again = pickle.loads(pickle.dumps(shm))
    assert again.name == shm.name and again.buf[0] == 9
    assert shm._fd == -1 and shm.name in repr(shm)
    a.unlink()
    del a
    assert bytes(shm.buf) == b"\x09\1\2\3"
    with shm:
        pass
    assert shm.buf is None
    again.close()
    with pytest.raises(snp.StaleHandle):
        snp.attach(shm.name)


def test_a_name_leads_to_a_view():
    a = snp.array(np.arange(12, dtype=[("x", ">i4"), ("y", "f8")][0][1]).reshape(3, 4))
    for view in (a, a[1:, ::2], a.T, a[2, 1, None, None], a[:0]):
        opened = snp.attach(view.shm.name)
        assert type(opened) is snp.SharedNDArray and opened.dtype == view.dtype
        assert same(opened, view) and opened.strides == view.strides
        if view.size:
            opened[...] = 7
            assert (view == 7).all()
    opened = snp.attach("/" + a.shm.name, readonly=True)
    with pytest.raises(ValueError, match="read-only"):
        opened[0, 0] = 1
    for bad in ("snp_", "snp_00.zz", a.shm.name[:-3] + "!", a.shm.name[:40], "snp_" + "0" * 400):
        with pytest.raises((ValueError, LookupError)):
            snp.attach(bad)


def test_a_name_holds_nothing():
    a = snp.array([1, 2, 3])
    name = a.shm.name
    del a
    with pytest.raises(LookupError, match="given back"):
        snp.attach(name)


def test_private_memory_has_no_name():
    with pytest.raises(ValueError, match="not in shared memory"):
        snp.SharedNDArray.shm.fget(np.zeros(3))
    assert _core.array_name(np.zeros(3)) is None and _core.array_send(np.zeros(3)) is None
    for function in (_core.array_name, _core.array_send, _core.array_memory):
        with pytest.raises(TypeError):
            function("text")


def test_memory_is_recycled_with_its_pages():
    addresses = set()
    for _ in range(10):
        a = snp.empty((1000, 1000))
        addresses.add(address_of(a))
        del a
    assert len(addresses) == 1


def test_memory_comes_back_from_cycles_and_threads():
    before = in_use()

    def work():
        for number in range(20):
            holder = [snp.full(1000, number)]
            holder.append(holder)
            assert (holder[0][::2] == number).all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert in_use() == before


@pytest.mark.filterwarnings("ignore")
def test_a_fork_in_between_does_not_matter():
    # The child's end must not take the parent's array away, and the other way round.
    a = snp.array([1, 2, 3])
    name = name_of(a)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            view = a[:]
            del a
            del view
            gc.collect()
            os.write(write, b"x")
            status = 0
        finally:
            os._exit(status)
    assert os.read(read, 1) == b"x"
    assert os.waitpid(pid, 0)[1] == 0
    os.close(read), os.close(write)
    assert exists(name) and a.tolist() == [1, 2, 3]
    _core.trim()
    del a
    assert not exists(name)


def test_arrays_may_live_until_the_end():
    code = """
        import shared_numpy as snp
        keep = snp.array([1, 2, 3])
        class Holder:
            def __del__(self):
                self.array[0] = 1
        holder = Holder()
        holder.self, holder.array = holder, snp.zeros(10)
        view = memoryview(snp.zeros(10))
        at_the_end = Holder()
        at_the_end.array = snp.zeros(1 << 20)
    """
    done = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    out, err = done.communicate(timeout=60)
    assert (done.returncode, out, err) == (0, "", "")


def test_a_thread_that_makes_an_array_at_the_interpreters_end():
    """CPython before 3.14 ends such a thread by unwinding its stack, ours included."""
    code = """
        import builtins, threading, time
        import shared_numpy as snp

        entered = threading.Event()

        class Slow:
            def __index__(self):
                entered.set()
                while True:
                    time.sleep(0.01)

        class Last:
            # Outlives the moment from which on other threads may not go on.
            sleep = staticmethod(time.sleep)
            def __del__(self):
                self.sleep(0.2)

        builtins.last = Last()
        threading.Thread(target=snp.empty, args=(Slow(),), daemon=True).start()
        entered.wait()
    """
    done = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    assert done.communicate(timeout=60) == ("", "")
    assert done.returncode == 0


def test_threads_make_and_drop():
    def work():
        try:
            for number in range(50):
                a = snp.full(100, number)
                assert (a[::2] == number).all()
        except BaseException as error:
            failures.append(error)

    failures = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_many_arrays_need_no_descriptors():
    before = len(os.listdir("/proc/self/fd"))
    arrays = [snp.array([number]) for number in range(500)]
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    assert [a[0] for a in arrays] == list(range(500))


def test_a_signals_handler_that_raises_ends_the_making_of_an_array():
    class Enough(Exception):
        pass

    def handler(_number, _frame):
        raise Enough

    _core.trim()
    before = _core.stats()
    former = signal.signal(signal.SIGALRM, handler)
    try:
        for maker in (snp.empty, snp.zeros):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            made = []
            with pytest.raises(Enough):
                # Takes ten times as long as that, since nothing is recycled. All of it in C:
                # a handler that is run after it, and not meanwhile, finds something made.
                made.extend(map(maker, [1 << 29], ["u1"]))
            assert not made
            _core.trim()
            after = _core.stats()
            assert after["in_use_bytes"] == before["in_use_bytes"]
            assert after["committed_bytes"] - before["committed_bytes"] < 1 << 22
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert snp.zeros(10).tolist() == [0] * 10


def test_a_numpy_of_unknown_kind_is_slower_and_gives_the_same():
    code = """
        import warnings
        import numpy as np
        try:
            import numpy._core.multiarray as multiarray
        except ImportError:
            import numpy.core.multiarray as multiarray
        multiarray._ARRAY_API = object()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import shared_numpy as snp
            for make in (snp.empty, snp.zeros, snp.ndarray):
                a = make((2, 3), np.uint8, order="F")
                assert type(a) is snp.SharedNDArray and type(a + 1) is np.ndarray
                assert a.shape == (2, 3) and a.dtype == "u1" and a.flags.f_contiguous
        assert "made slowly" in " ".join(str(warning.message) for warning in caught)
    """
    subprocess.check_call([sys.executable, "-c", textwrap.dedent(code)])


def test_numpy_missing_is_a_clear_error():
    code = """
        import sys
        sys.modules["numpy"] = None
        import shared_numpy.shared_memory
        try:
            import shared_numpy.arrays
        except ImportError as error:
            assert "shared-numpy[arrays]" in str(error), error
        else:
            raise SystemExit("imported")
    """
    subprocess.check_call([sys.executable, "-c", textwrap.dedent(code)])


def test_every_maker_refuses_an_order_it_cannot_give():
    for make in (snp.ndarray, snp.SharedNDArray, snp.zeros, snp.empty, snp.ones):
        with pytest.raises(ValueError, match="order must be"):
            make((2, 2), order="K")
