"""Named arrays travel by name, and are found there or said to be gone; forged handles stay inside."""

import multiprocessing
import os
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import _core, named  # noqa: E402
from shared_numpy.shared_memory import SharedMemory  # noqa: E402
from array_samples import SAMPLES, by_handle  # noqa: E402
from named_files import make, path_of  # noqa: E402


def describe(queue, a):
    a += 1
    queue.put((type(a).__name__, a.shape, a.strides, a.tolist(), a.shm.name))


def test_it_travels_by_name(name, context):
    made = make(name, (4, 6), "i8")
    made[:] = np.arange(24).reshape(4, 6)
    view = made[::2, ::-3]
    queue = context.Queue()
    child = context.Process(target=describe, args=(queue, view))
    child.start()
    told = queue.get(timeout=60)
    child.join()
    assert told == ("SharedNDArray", view.shape, view.strides, view.tolist(), name)
    assert made[0, 5] == 6 and made[1, 5] == 11


def test_views_and_fields_travel_as_what_they_are(name):
    made = make(name, (2, 3), SAMPLES["nested"].dtype)
    for view in (made, made["a"], made["a"]["b"], made[1:], made.T, made[:0], made[0, 0, ...]):
        other = by_handle(view)
        assert type(other) is snp.SharedNDArray and other.shape == view.shape
        assert other.dtype == view.dtype and other.strides == view.strides
        assert other.__array_interface__["data"] == view.__array_interface__["data"], "mapped once"
    other = pickle.loads(pickle.dumps(made))
    assert type(other) is np.ndarray, "by value"


def test_a_queue_of_ours(name):
    made, queue = make(name), snp.Queue()
    queue.put({"frame": made})
    got = queue.get(timeout=60)["frame"]
    made[:] = 3
    assert (got == 3).all() and got.shm.name == name


class Derived(snp.SharedNDArray):
    pass


def test_derived_classes_keep_their_type(name):
    made = make(name).view(Derived)
    assert type(by_handle(made)) is Derived
    private = by_handle(made + 1)
    assert type(private) is np.ndarray and (private == 1).all(), "by value, as it has no name"


def test_a_handle_that_comes_too_late(name):
    made = make(name)
    handle = bytes(ForkingPickler.dumps(made))
    made.unlink()
    with pytest.raises(FileNotFoundError) as refused:
        ForkingPickler.loads(handle)
    assert "the named array is gone" in str(refused.value)
    other = make(name)  # the same name, another array
    with pytest.raises(FileNotFoundError):
        ForkingPickler.loads(handle)
    other.unlink()
    made[:] = 2
    copied = by_handle(made)
    assert (copied == 2).all() and not np.shares_memory(copied, made)
    copied.unlink()


def test_forged_handles_stay_inside(name):
    made = make(name, 10, "i8")
    segment = _core.named_place(made, 8)[0]
    good = (segment.name, segment.identity, 0, (10,), (8,), np.dtype("i8"), False, None)
    assert named._open(*good).shape == (10,)
    for at, value in [(2, 1), (2, -8), (2, -64), (3, (11,)), (4, (9,)), (4, (-8,)), (3, (10, 2)),
                      (3, (2 ** 62,)), (5, np.dtype("V9"))]:
        forged = good[:at] + (value,) + good[at + 1:]
        with pytest.raises(ValueError):
            named._open(*forged)
    with pytest.raises(TypeError):
        named._open(*(good[:5] + (np.dtype("O"),) + good[6:]))


def test_its_memory_as_a_segment(name):
    made = make(name, 5, "u1")
    made[:] = 3
    memory = made.shm
    assert memory.name == name and bytes(memory.buf) == b"\3" * 5 and memory.size == 5
    memory.close()
    with SharedMemory(name) as whole:
        assert bytes(whole.buf[:8]) == b"SNPNAMED"
    made.shm.unlink()
    assert not os.path.exists(path_of(name))


def test_names_of_arrays_without_one_are_told_apart():
    with pytest.raises(Exception) as refused:
        snp.attach("snp_0123456789abcdef")
    assert isinstance(refused.value, (ValueError, LookupError))
    assert "snp_0123456789abcdef" in str(refused.value)


def test_an_inherited_array_goes_on_after_a_fork(name):
    made = make(name)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=describe, args=(queue, made))
    child.start()
    queue.get(timeout=60)
    child.join()
    assert (made == 1).all() and os.path.exists(path_of(name))
