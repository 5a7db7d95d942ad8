"""What no array can be made of is refused with an error that says why, and leaves no memory behind."""

import subprocess
import sys
import textwrap

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from array_samples import in_use  # noqa: E402


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
