"""Making arrays: every kind of input, and what comes out is what NumPy gives."""

import gc
import inspect
import pickle
import subprocess
import sys
import textwrap

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import _core  # noqa: E402
from array_samples import SAMPLES, address_of, dirty, name_of, same, strides  # noqa: E402


@pytest.fixture(params=sorted(SAMPLES))
def sample(request):
    return SAMPLES[request.param]


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
