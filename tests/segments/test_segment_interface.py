"""`SharedMemory` as users see it: arguments, names, errors, pickles, and the private names that code in the wild uses."""

import errno
import gc
import os
import pickle
import sys

import pytest

from shared_numpy import shared_memory
from shared_numpy.shared_memory import SharedMemory
from programs import run_python, shm_exists
from standard_library import needs_standard, standard


def test_what_one_writes_the_other_reads(segment):
    other = SharedMemory(segment.name)
    segment.buf[:5] = b"hello"
    assert bytes(other.buf[:5]) == b"hello"
    assert (other.size, len(other.buf), other.name) == (4096, 4096, segment.name)
    assert segment.name in repr(segment) and "4096" in repr(segment)
    assert not segment.name.startswith("/") and segment._name == "/" + segment.name


def test_buf_is_bytes_of_exactly_the_size():
    for size in (1, 2, 4095, 4097):
        with SharedMemory(create=True, size=size) as made:
            made.unlink()
            assert (made.size, made.buf.nbytes, made.buf.format) == (size, size, "B")
            assert bytes(made.buf) == bytes(size)


@pytest.mark.parametrize("arguments, message", [
    (dict(create=True, size=0), "positive number different from zero"),
    (dict(create=True), "positive number different from zero"),
    (dict(create=True, size=-1), "must be a positive integer"),
    (dict(), "can only be None if create=True"),
    (dict(name="x", create=True, size=1, readonly=True), "readonly"),
])
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        SharedMemory(**arguments)


def test_sizes_of_another_type():
    with pytest.raises(TypeError):
        SharedMemory(create=True, size=1.5)
    with pytest.raises(TypeError):
        SharedMemory(create=True, size="1")


@pytest.mark.parametrize("name", ["", "/", "a/b", "/a/b", "a\0b", "\0", ".", "..", "x" * 256])
def test_names_no_segment_can_have(name):
    for create in (True, False):
        with pytest.raises(ValueError, match="name"):
            SharedMemory(name, create=create, size=8)


@pytest.mark.parametrize("name", ["snp-t{}", "/snp-t{}", "//snp-t{}", "snp t:{}\n", "snp-\xfc-{}"])
def test_names_round_trip_to_other_processes(name):
    name = name.format(os.getpid())
    made = SharedMemory(name, create=True, size=8)
    try:
        made.buf[0] = 42
        code, out, err = run_python("""
            import sys
            from shared_numpy.shared_memory import SharedMemory
            print(SharedMemory(sys.argv[1]).buf[0])
        """, made.name, env=dict(os.environ, LC_ALL="C.UTF-8"))
        assert (code, out, err) == (0, "42\n", "")
        assert made.name == name.lstrip("/")
        assert SharedMemory(name).buf[0] == 42
    finally:
        made.unlink()


def test_errors_are_the_standard_ones(segment):
    with pytest.raises(FileNotFoundError) as raised:
        SharedMemory("snp-nowhere")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOENT, "/snp-nowhere")
    with pytest.raises(FileExistsError) as raised:
        SharedMemory(segment.name, create=True, size=8)
    assert raised.value.errno == errno.EEXIST
    assert shm_exists(segment.name)


def test_the_private_names_that_code_in_the_wild_uses(segment):
    assert shared_memory._USE_POSIX is True
    assert shared_memory._SHM_NAME_PREFIX == "/psm_"
    assert shared_memory._make_filename().startswith("/psm_")
    assert len(shared_memory._make_filename()) == shared_memory._SHM_SAFE_NAME_LENGTH
    assert shared_memory._O_CREX == os.O_CREAT | os.O_EXCL
    assert segment._buf is segment.buf
    assert len(segment._mmap) == segment._mmap.size() == 4096
    assert (segment._flags, segment._mode) == (os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fd = shared_memory._posixshmem.shm_open(segment._name, os.O_RDWR)
    assert os.fstat(fd).st_size == 4096
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_fd_is_opened_on_demand_and_checked(segment):
    before = os.listdir("/proc/self/fd")
    fd = segment._fd
    assert os.fstat(fd).st_ino == os.stat("/dev/shm/" + segment.name).st_ino
    assert segment._fd == fd
    # A daemon closes everything, and the number becomes another file's.
    os.close(fd)
    other = os.open("/dev/null", os.O_RDWR)
    if other != fd:
        os.dup2(other, fd)
    assert os.fstat(segment._fd).st_size == 4096
    again = segment._fd
    assert again != fd
    segment.close()
    assert segment._fd == -1
    with pytest.raises(OSError):
        os.fstat(again)
    os.fstat(fd)  # what was not ours stays open
    for number in {fd, other}:
        os.close(number)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_fd_goes_with_the_object(segment):
    before = os.listdir("/proc/self/fd")
    other = SharedMemory(segment.name)
    assert other._fd >= 0
    del other
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_subclasses_may_end_as_with_the_standard_library(segment, capfd):
    # Much code derives a class to keep the standard one from complaining at its end.
    class Quiet(SharedMemory):
        def __del__(self):
            try:
                super().__del__()
            except BufferError:
                pass

    view = Quiet(segment.name).buf
    gc.collect()
    assert bytes(view[:1]) == b"\0"
    SharedMemory.__new__(SharedMemory).__del__()
    assert capfd.readouterr().err == ""


def test_fd_of_a_name_that_leads_elsewhere():
    name = "snp-elsewhere-{}".format(os.getpid())
    segment = SharedMemory(name, create=True, size=8)
    os.unlink("/dev/shm/" + name)
    with pytest.raises(FileNotFoundError):
        segment._fd
    other = SharedMemory(name, create=True, size=8)
    try:
        with pytest.raises(OSError) as raised:
            segment._fd
        assert raised.value.errno == errno.ESTALE
        with pytest.raises(FileNotFoundError, match="created anew"):
            segment.unlink()
        assert shm_exists(name)
    finally:
        other.unlink()


def test_subclass_with_flags_of_its_own(segment):
    class Optional(SharedMemory):
        _flags = os.O_CREAT | os.O_RDWR

    attached = Optional(segment.name)
    assert attached.size == segment.size
    assert attached._flags == Optional._flags


def test_a_taken_random_name_is_tried_again(segment, monkeypatch):
    names = iter([segment._name, "/psm_snp_free_{}".format(os.getpid())])
    monkeypatch.setattr(shared_memory, "_make_filename", lambda: next(names))
    made = SharedMemory(create=True, size=8)
    try:
        assert made._name.startswith("/psm_snp_free")
    finally:
        made.unlink()
    assert shm_exists(segment.name)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling(segment, protocol):
    copy = pickle.loads(pickle.dumps(segment, protocol))
    copy.buf[7] = 7
    assert segment.buf[7] == 7 and type(copy) is SharedMemory
    segment.unlink()
    data = pickle.dumps(segment, protocol)
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)


def test_track_and_readonly_survive_pickling(segment):
    for track in (None, False, True):
        attached = SharedMemory(segment.name, track=track)
        assert pickle.loads(pickle.dumps(attached))._track is track
    reader = pickle.loads(pickle.dumps(SharedMemory(segment.name, readonly=True)))
    assert reader.buf.readonly


@needs_standard
@pytest.mark.skipif(sys.version_info < (3, 13), reason="track came with 3.13")
def test_difference_pickling_forgets_track(segment):
    attached = standard.SharedMemory(segment.name, track=False)
    assert pickle.loads(pickle.dumps(attached))._track is True
    attached.close()
