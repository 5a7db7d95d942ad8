"""Making and opening named arrays: every kind is found again as it was made; what cannot be made leaves no name."""

import errno
import os

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from array_samples import SAMPLES, same  # noqa: E402
from named_files import make, path_of  # noqa: E402
from programs import run  # noqa: E402


@pytest.mark.parametrize("key", sorted(SAMPLES))
def test_every_kind(name, key):
    sample = SAMPLES[key]
    order = "F" if sample.flags.fnc else "C"
    made = snp.ndarray(sample.shape, sample.dtype, order, name=name)
    assert type(made) is snp.SharedNDArray and made.flags.writeable and made.flags.aligned
    assert not np.asarray(made).tobytes().strip(b"\0"), "zeros"
    made[...] = sample
    for opened in (snp.attach(name), snp.attach("/" + name, readonly=True)):
        assert type(opened) is snp.SharedNDArray
        assert same(opened, sample) and opened.strides == made.strides
        assert opened.dtype.fields == sample.dtype.fields
        assert opened.dtype.isalignedstruct == sample.dtype.isalignedstruct
        assert opened.ctypes.data % 64 == 0
    assert os.stat(path_of(name)).st_blocks * 512 >= made.nbytes, "committed"


@pytest.mark.parametrize("dtype", [
    {"names": ["a", "b"], "formats": ["u4", "u2"], "offsets": [0, 1], "itemsize": 16},  # overlapping
    {"names": ["a", "b"], "formats": ["u4", "u2"], "offsets": [8, 0]},  # not in order
    [("caf\u00e9 \"'\\\n", "U2"), ("\U0001f40d", ">M8[25s]")],
    [("a", [("b", [("c", [("d", "S3", (2, 1))])])])],
    np.dtype([("a", "i1"), ("b", [("c", "f8")], 2)], align=True),
], ids=repr)
def test_odd_structures(name, dtype):
    dtype = np.dtype(dtype)
    make(name, 3, dtype)
    opened = snp.attach(name)
    assert opened.dtype == dtype and opened.dtype.fields == dtype.fields
    assert opened.dtype.itemsize == dtype.itemsize


def test_many_fields_and_axes(name):
    dtype = np.dtype([("field {}".format(number), "u1") for number in range(5000)])
    make(name, (1,) * 32, dtype)
    opened = snp.attach(name)
    assert opened.dtype == dtype and opened.shape == (1,) * 32


def test_memory_is_one_and_views_are_shared(name):
    made, opened = make(name), snp.attach(name)
    made[:] = 7
    assert (opened == 7).all()
    opened.T[0] = 1
    assert (made[:, 0] == 1).all() and (made[:, 1] == 7).all()
    assert type(opened[1:]) is snp.SharedNDArray and type(opened + 1) is np.ndarray


@pytest.mark.parametrize("dtype", ["O", [("a", "O")], [("a", [("b", "O", 3)])]], ids=repr)
def test_objects_are_refused(name, dtype):
    with pytest.raises(TypeError):
        make(name, 3, dtype)
    assert not os.path.exists(path_of(name))


@pytest.mark.parametrize("shape, error", [
    ((2 ** 62, 8), ValueError), ((0, 2 ** 62, 2 ** 62), ValueError), ((-1,), ValueError),
    ((1,) * 65, ValueError), ("ab", TypeError), (2 ** 70, ValueError),
], ids=repr)
def test_impossible_shapes_leave_nothing(name, shape, error):
    with pytest.raises(error):
        make(name, shape)
    assert not os.path.exists(path_of(name))


def test_a_full_file_system_is_an_error_with_figures(name):
    with pytest.raises(OSError) as refused:
        make(name, 2 ** 55, "u1")
    assert refused.value.errno == errno.ENOSPC
    assert str(2 ** 55 + 4096) in str(refused.value), "with its header"
    assert not os.path.exists(path_of(name))


def test_more_than_a_limit_is_an_error_with_figures(name, tmp_path):
    told = run(tmp_path, """
        import os, sys
        import shared_numpy as snp
        name = sys.argv[1]
        small = snp.ndarray(1 << 20, "u1", name=name)
        small.unlink()
        for size, persist in (1 << 25, False), (1 << 40, True):
            try:
                snp.ndarray(size, "u1", name=name, persist=persist)
            except (MemoryError, OSError) as error:
                print(type(error).__name__, error, os.path.exists("/dev/shm/" + name))
        # One with holes, as somebody may have copied it.
        holes = snp.ndarray(1 << 20, "u1", name=name)
        with open("/dev/shm/" + name, "rb") as file:
            header = file.read(1 << 20)
        with open("/dev/shm/" + name + "_copy", "wb") as file:
            file.write(header)
            file.truncate(os.path.getsize("/dev/shm/" + name))
        os.environ["SHARED_NUMPY_LIMIT"] = "1K"
        try:
            snp.attach(name + "_copy")
        except MemoryError as error:
            print(error)
        assert (snp.attach(name + "_copy", readonly=True) == 0).all()
        os.unlink("/dev/shm/" + name + "_copy")
    """, name.strip("/"), SHARED_NUMPY_LIMIT="16M").splitlines()
    large, larger, holes = told
    assert large.startswith("MemoryError") and str((1 << 25) + 4096) in large and large.endswith("False")
    assert "SHARED_NUMPY_LIMIT" in large and str(16 << 20) in large
    # What /dev/shm has no room for is told as that.
    assert larger.startswith("OSError") and str((1 << 40) + 4096) in larger and larger.endswith("False")
    assert "4096 bytes asked" in holes and "SHARED_NUMPY_LIMIT" in holes


def test_a_name_is_taken_once(name):
    made = make(name)
    made[:] = 5
    with pytest.raises(FileExistsError) as refused:
        make(name, 100)
    assert "shared_numpy.unlink" in str(refused.value) and name in str(refused.value)
    assert (snp.attach(name) == 5).all()
    made.unlink()
    assert make(name, 100).shape == (100,)


@pytest.mark.parametrize("bad, error", [
    ("", ValueError), ("/", ValueError), ("a/b", ValueError), ("a\0b", ValueError), ("x" * 256, ValueError),
    (".", ValueError), (b"bytes", TypeError), (7, TypeError), ("snp_mine", ValueError), ("/snp_", ValueError),
], ids=repr)
def test_bad_names(bad, error):
    with pytest.raises(error):
        make(bad)
    if not str(bad).startswith(("snp_", "/snp_")):
        with pytest.raises(error):
            snp.attach(bad)
        with pytest.raises(error):
            snp.unlink(bad)


def test_options_without_a_name_are_an_error():
    with pytest.raises(ValueError):
        snp.ndarray(3, persist=True)
    with pytest.raises(ValueError):
        snp.ndarray(3, mode=0o640)


def test_many_threads_make_one_name_once(name):
    import threading
    made = []

    def run():
        try:
            made.append(make(name))
        except FileExistsError:
            pass

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
