"""Attaching: nothing is taken down, read-only is read-only, and the owner may be an object of the standard class."""

import os
import sys

import pytest

from shared_numpy.shared_memory import SharedMemory
from programs import run_python, shm_exists
from standard_library import needs_standard


def test_a_failed_attach_leaves_the_segment():
    empty = "snp-empty-{}".format(os.getpid())
    open("/dev/shm/" + empty, "w").close()
    try:
        with pytest.raises(ValueError, match="cannot mmap an empty file"):
            SharedMemory(empty)
        assert shm_exists(empty)
    finally:
        os.unlink("/dev/shm/" + empty)


@needs_standard
@pytest.mark.skipif(sys.version_info >= (3, 15), reason="may be fixed from 3.15")
def test_difference_a_failed_attach_unlinks_in_the_standard_library():
    name = "snp-lost-{}".format(os.getpid())
    code, _, _ = run_python("""
        import mmap, sys
        from multiprocessing import shared_memory
        made = shared_memory.SharedMemory(sys.argv[1], create=True, size=64)
        def no_memory(*args): raise OSError(12, "Cannot allocate memory")
        shared_memory.mmap.mmap = no_memory
        try:
            shared_memory.SharedMemory(sys.argv[1])
        except OSError:
            pass
        import os
        sys.stdout.flush()
        os._exit(int(os.path.exists("/dev/shm/" + sys.argv[1])))
    """, name)
    if code != 0:
        os.unlink("/dev/shm/" + name)
    assert code == 0


def test_an_attaching_process_takes_nothing_down(segment):
    code, out, err = run_python("""
        import sys
        from shared_numpy.shared_memory import SharedMemory
        attached = SharedMemory(sys.argv[1])
        attached.buf[0] = 1
    """, segment.name)
    assert (code, out, err) == (0, "", "")
    assert segment.buf[0] == 1 and shm_exists(segment.name)


@needs_standard
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the same, but 3.13 can be told not to")
def test_difference_a_standard_attach_takes_it_down(segment):
    code, _, err = run_python("""
        import sys
        from multiprocessing.shared_memory import SharedMemory
        SharedMemory(sys.argv[1]).close()
    """, segment.name)
    assert code == 0 and "leaked shared_memory" in err
    assert not shm_exists(segment.name)


def test_unlink_twice_is_an_error_and_by_whom_does_not_matter(segment):
    SharedMemory(segment.name).unlink()
    with pytest.raises(FileNotFoundError):
        segment.unlink()
    with pytest.raises(FileNotFoundError):
        segment.unlink()
    assert segment.buf[0] == 0


def test_readonly(segment):
    numpy = pytest.importorskip("numpy")
    reader = SharedMemory(segment.name, readonly=True)
    segment.buf[3] = 9
    assert reader.buf[3] == 9
    with pytest.raises(TypeError):
        reader.buf[3] = 1
    for array in (numpy.frombuffer(reader.buf, numpy.uint8),
                  numpy.ndarray((10,), numpy.uint8, reader._mmap)):
        with pytest.raises(ValueError):
            array[0] = 1
        with pytest.raises(ValueError):
            array.flags.writeable = True
    assert not os.get_inheritable(reader._fd)
    with pytest.raises(OSError):
        os.write(reader._fd, b"x")
    reader.unlink()


def test_mode():
    before = os.umask(0o077)
    try:
        made = SharedMemory(create=True, size=8, mode=0o640)
        assert os.stat("/dev/shm/" + made.name).st_mode & 0o7777 == 0o640
        made.unlink()
    finally:
        os.umask(before)


@needs_standard
def test_segments_interoperate_with_the_standard_library(segment):
    # Whatever the standard class tracks it would unlink at its process's end: in a child.
    code, out, err = run_python("""
        import sys
        from multiprocessing import resource_tracker
        from multiprocessing.shared_memory import SharedMemory
        theirs = SharedMemory(sys.argv[1])
        print(theirs.size, bytes(theirs.buf[:4]))
        theirs.buf[:4] = b"back"
        resource_tracker.unregister(theirs._name, "shared_memory")
        made = SharedMemory(create=True, size=77)
        made.buf[:5] = b"hello"
        from shared_numpy.shared_memory import SharedMemory as Ours
        ours = Ours(made.name)
        print(ours.size, bytes(ours.buf[:5]))
        made.unlink()
    """, segment.name)
    assert segment.buf[:4] == b"back"
    assert (code, out) == (0, "4096 b'\\x00\\x00\\x00\\x00'\n77 b'hello'\n"), err
