"""Closing is legal at any time, and nothing is pulled from under a view; exporters cannot be forged and do not leak."""

import gc
import sys

import pytest

from shared_numpy.shared_memory import SharedMemory
from programs import run_python, shm_exists
from standard_library import needs_standard, standard


def test_close_is_legal_at_any_time(segment):
    view = segment.buf
    other = memoryview(segment._mmap)[10:20]
    view[12] = 5
    segment.close()
    segment.close()
    assert segment.buf is None and segment.size == 4096
    assert view[12] == 5 and other[2] == 5
    other[2] = 6
    assert view[12] == 6


def test_arrays_outlive_close_and_object():
    numpy = pytest.importorskip("numpy")
    code, out, err = run_python("""
        import gc, numpy
        from shared_numpy.shared_memory import SharedMemory
        made = SharedMemory(create=True, size=1 << 20)
        by_buf = numpy.ndarray((1 << 17,), numpy.float64, made.buf)
        by_mmap = numpy.ndarray((1 << 17,), numpy.float64, made._mmap)
        by_frombuffer = numpy.frombuffer(made.buf, numpy.float64)
        by_buf[:] = 3
        made.close(); made.unlink(); del made
        gc.collect()
        print(by_buf.sum(), by_mmap.sum(), by_frombuffer.sum())
    """)
    assert (code, out, err) == (0, "393216.0 393216.0 393216.0\n", "")
    del numpy


@needs_standard
def test_difference_standard_close_refuses_or_crashes():
    pytest.importorskip("numpy")
    code, _, _ = run_python("""
        import numpy
        from multiprocessing.shared_memory import SharedMemory
        made = SharedMemory(create=True, size=1 << 20)
        array = numpy.ndarray((1 << 17,), numpy.float64, made.buf)
        made.unlink(); made.close()
        array.sum()
    """)
    assert code != 0
    made = standard.SharedMemory(create=True, size=8)
    made.unlink()
    view = memoryview(made.buf)
    with pytest.raises(BufferError):
        made.close()
    view.release()
    made.close()


def test_memory_is_unmapped_with_the_last_view():
    def mapped(name):
        with open("/proc/self/maps") as maps:
            return sum(name in line for line in maps)

    made = SharedMemory(create=True, size=8192)
    made.unlink()
    view = made.buf[5:]
    made.close()
    assert mapped(made.name) == 1
    del view
    assert mapped(made.name) == 0


def test_nothing_is_said_at_the_end_of_the_interpreter():
    code, out, err = run_python("""
        import sys
        from shared_numpy.shared_memory import SharedMemory
        made = SharedMemory(create=True, size=64)
        made.unlink()
        view = made.buf
        sys.keep = made, view, memoryview(view)
        class Cycle: pass
        cycle = Cycle(); cycle.me = cycle; cycle.shm = SharedMemory(create=True, size=8)
        cycle.shm.unlink()
    """)
    assert (code, out, err) == (0, "", "")


def test_context_manager(segment):
    with SharedMemory(segment.name) as attached:
        attached.buf[0] = 1
    assert attached.buf is None
    assert shm_exists(segment.name)


def test_exporters_are_not_made_from_python(segment):
    kind = type(segment._mmap)
    for attempt in (kind, lambda: kind.__new__(kind), lambda: object.__new__(kind)):
        with pytest.raises(TypeError):
            attempt()
    with pytest.raises(TypeError):
        type("Sub", (kind,), {})
    with pytest.raises(TypeError):
        class Other(object):
            pass
        Other().__class__ = kind


def test_exporters_do_not_leak():
    kind = None
    counts = []
    for _ in range(3):
        for _ in range(100):
            with SharedMemory(create=True, size=64) as made:
                made.unlink()
                kind = type(made._mmap)
                view = memoryview(made._mmap)
                del view
        gc.collect()
        counts.append(sys.getrefcount(kind))
    assert counts[0] == counts[1] == counts[2]
