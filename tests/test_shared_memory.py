"""`SharedMemory` as users see it, and each thing it does better than the standard one.

Where the running interpreter has the standard module, the tests marked
"difference" show its behaviour beside ours, so that a fix upstream is noticed.
"""

import errno
import gc
import os
import pickle
import subprocess
import sys
import textwrap

import pytest

from shared_numpy import _core, shared_memory
from shared_numpy.shared_memory import SharedMemory

try:
    from multiprocessing import shared_memory as standard
    if standard is shared_memory:
        standard = None
except ImportError:
    standard = None

needs_standard = pytest.mark.skipif(
    standard is None, reason="this interpreter has no shared_memory of its own to compare with")


def run_python(code, *args, **options):
    """Runs `code` in a new interpreter; gives (return code, output, errors)."""
    wrapper = options.pop("wrapper", [])
    done = subprocess.Popen(
        wrapper + [sys.executable, "-c", textwrap.dedent(code)] + list(args),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, **options)
    out, err = done.communicate(timeout=60)
    return done.returncode, out, err


def exists(name):
    return os.path.exists("/dev/shm/" + name.lstrip("/"))


@pytest.fixture
def segment():
    made = SharedMemory(create=True, size=4096)
    yield made
    made.close()
    try:
        made.unlink()
    except FileNotFoundError:
        pass


# -- the interface ------------------------------------------------------------


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
    assert exists(segment.name)


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
        assert exists(name)
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
    assert exists(segment.name)


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


# -- close: always legal, nothing pulled from under a view ---------------------


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
    assert exists(segment.name)


# -- attach: not the owner, read-only -------------------------------------------


def test_a_failed_attach_leaves_the_segment():
    empty = "snp-empty-{}".format(os.getpid())
    open("/dev/shm/" + empty, "w").close()
    try:
        with pytest.raises(ValueError, match="cannot mmap an empty file"):
            SharedMemory(empty)
        assert exists(empty)
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
    assert segment.buf[0] == 1 and exists(segment.name)


@needs_standard
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the same, but 3.13 can be told not to")
def test_difference_a_standard_attach_takes_it_down(segment):
    code, _, err = run_python("""
        import sys
        from multiprocessing.shared_memory import SharedMemory
        SharedMemory(sys.argv[1]).close()
    """, segment.name)
    assert code == 0 and "leaked shared_memory" in err
    assert not exists(segment.name)


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


# -- memory: reserved, refused, never SIGBUS -----------------------------------


def small_shm(size):
    """A wrapper command that runs with a /dev/shm of `size`, or a skip."""
    wrapper = ["unshare", "--mount", "sh", "-c",
               "mount -t tmpfs -o size={} tmpfs /dev/shm && exec \"$@\"".format(size), "sh"]
    try:
        probe = subprocess.run(wrapper + ["true"], stderr=subprocess.PIPE)
    except OSError as error:
        pytest.skip("cannot make a small /dev/shm: {}".format(error))
    if probe.returncode != 0:
        pytest.skip("cannot make a small /dev/shm: " + probe.stderr.decode().strip())
    return wrapper


def test_a_full_dev_shm_is_an_error_that_helps():
    code, out, err = run_python("""
        import errno, os
        from shared_numpy.shared_memory import SharedMemory
        for size, reserve in [(3 << 20, None), (100 << 20, None), (3 << 20, True), (1 << 40, None)]:
            try:
                SharedMemory(create=True, size=size, reserve=reserve)
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                for figure in (str(size), str(2 << 20), "shm-size"):
                    assert figure in str(error), (figure, str(error))
            else:
                raise AssertionError(size)
            assert os.listdir("/dev/shm") == []
        fits = SharedMemory(create=True, size=2 << 20)
        fits.buf[-1] = 1
        fits.unlink()
        sparse = SharedMemory(create=True, size=1 << 30, reserve=False)
        sparse.unlink()
    """, wrapper=small_shm("2m"))
    assert (code, out, err) == (0, "", "")


@needs_standard
def test_difference_a_full_dev_shm_is_sigbus_in_the_standard_library():
    code, _, _ = run_python("""
        from multiprocessing.shared_memory import SharedMemory
        made = SharedMemory(create=True, size=64 << 20)
        made.buf[:] = bytes(len(made.buf))
    """, wrapper=small_shm("2m"))
    assert code in (-7, 128 + 7)


def test_reserved_memory_is_committed():
    for reserve, committed in [(None, True), (True, True), (False, False)]:
        made = SharedMemory(create=True, size=8 << 20, reserve=reserve)
        try:
            assert (os.stat("/dev/shm/" + made.name).st_blocks * 512 >= 8 << 20) is committed
        finally:
            made.unlink()


def test_ctrl_c_stops_a_long_reservation_and_leaves_nothing():
    code, out, err = run_python("""
        import os, signal
        from shared_numpy.shared_memory import SharedMemory
        class Stop(Exception): pass
        def stop(*_): raise Stop
        signal.signal(signal.SIGALRM, stop)
        before = set(os.listdir("/dev/shm"))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            SharedMemory("snp-long-%d" % os.getpid(), create=True, size=1 << 30, reserve=True)
        except Stop:
            print("stopped")
        assert not os.path.exists("/dev/shm/snp-long-%d" % os.getpid())
    """)
    assert (code, out, err) == (0, "stopped\n", "")


def test_a_limit_of_the_address_space_is_an_error_that_helps():
    code, out, err = run_python("""
        import os, resource
        from shared_numpy.shared_memory import SharedMemory
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        name = "snp-limit-%d" % os.getpid()
        try:
            SharedMemory(name, create=True, size=1 << 31, reserve=False)
        except OSError as error:
            print(error)
        assert not os.path.exists("/dev/shm/" + name)
    """)
    assert (code, err) == (0, "")
    assert "cannot map {} bytes".format(1 << 31) in out and "ulimit -v" in out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_without_dev_shm_the_error_says_so():
    code, out, err = run_python("""
        from shared_numpy.shared_memory import SharedMemory
        for name in (None, "one"):
            try:
                SharedMemory(name, create=True, size=10)
            except FileNotFoundError as error:
                print(error)
    """, wrapper=["unshare", "-m", "sh", "-c",
                  "mount -t tmpfs none /mnt && mknod -m 666 /mnt/null c 1 3 && "
                  "mknod -m 666 /mnt/urandom c 1 9 && mount --bind /mnt /dev && exec \"$@\"", "sh"])
    if "unshare" in err or "mount" in err:
        pytest.skip("no mount namespaces here: " + err)
    assert (code, err) == (0, "")
    assert out.count("there is no /dev/shm here") == 2


@pytest.mark.parametrize("named", [False, True])
def test_ctrl_c_at_any_moment_leaves_nothing(named):
    # A signal that comes in a system call is raised at the first step of Python code
    # after it: there the segment exists, and no variable has it yet.
    code, out, err = run_python("""
        import os, random, signal, sys
        from shared_numpy import shared_memory

        class Stop(BaseException):
            pass

        def stop(number, frame):
            raise Stop

        def new_name():
            return "/stop_{}_{}".format(os.getpid(), random.getrandbits(60))

        shared_memory._make_filename = new_name
        signal.signal(signal.SIGALRM, stop)
        stopped = 0
        for _ in range(300):
            name = new_name() if sys.argv[1] == "True" else None
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-4))
                for _ in range(50):
                    shared_memory.SharedMemory(name, create=True, size=30000).unlink()
            except Stop:
                stopped += 1
        print(os.getpid(), stopped)
    """, str(named))
    assert code == 0, err
    pid, stopped = out.split()
    # What was made and not assigned yet is the tracker's, which has ended by now.
    assert int(stopped) > 200
    left = [name for name in os.listdir("/dev/shm") if name.startswith("stop_" + pid)]
    for name in left:
        os.unlink("/dev/shm/" + name)
    assert left == []


def test_ten_thousand_objects_under_256_descriptors():
    code, out, err = run_python("""
        import resource
        from shared_numpy.shared_memory import SharedMemory
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        made = [SharedMemory(create=True, size=64) for _ in range(5000)]
        attached = [SharedMemory(one.name) for one in made]
        for number, one in enumerate(made):
            one.buf[0] = number % 251
        assert all(one.buf[0] == number % 251 for number, one in enumerate(attached))
        print(len(made) + len(attached))
        for one in made:
            one.unlink()
    """)
    assert (code, out, err) == (0, "10000\n", "")


@needs_standard
def test_difference_standard_objects_run_out_of_descriptors():
    code, out, err = run_python("""
        import resource, sys
        from multiprocessing.shared_memory import SharedMemory
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        made = []
        try:
            for _ in range(400):
                made.append(SharedMemory(create=True, size=64))
        except OSError as error:
            print(error.errno)
        for one in made:
            one.unlink()
    """)
    assert out == "{}\n".format(errno.EMFILE)


# -- the two modules interoperate --------------------------------------------------


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


# -- the exporter ------------------------------------------------------------------


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
    import gc
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


def test_import_is_light():
    code, out, err = run_python("""
        import sys
        before = set(sys.modules)
        from shared_numpy import shared_memory
        heavy = {"numpy", "multiprocessing", "socket", "pickle", "random", "hashlib", "threading", "secrets"}
        print(sorted(heavy & (set(sys.modules) - before)))
    """)
    assert (code, out, err) == (0, "[]\n", "")


class TestInterpreters:
    """The compiled part has one home; the rest of a process may do what it likes."""

    USE = """
        from shared_numpy.shared_memory import ShareableList, SharedMemory
        items = ShareableList([1, "two"])
        items.shm.unlink()
        assert (items.format, items[1]) == ("q8s", "two")
    """

    def run(self, program):
        done = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(self.USE) + textwrap.dedent(program)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        out, errors = done.communicate()
        assert (errors, done.returncode) == ("", 0)
        return out

    def test_imported_again(self):
        self.run("""
            import importlib, sys
            import shared_numpy._core as first
            del sys.modules["shared_numpy._core"]
            second = importlib.import_module("shared_numpy._core")
            assert second.Exporter is first.Exporter and second.ListBase is first.ListBase
            ShareableList([3]).shm.unlink()
            assert (items.format, items[1]) == ("q8s", "two")
        """)

    def test_a_second_interpreter_is_refused_and_disturbs_nobody(self):
        pytest.importorskip("_testcapi")
        out = self.run("""
            import _testcapi
            code = (
                "try:\\n"
                "    from shared_numpy import shared_memory\\n"
                "except ImportError as error:\\n"
                "    print('in another interpreter' in str(error), flush=True)\\n")
            for _ in range(2):
                assert _testcapi.run_in_subinterp(code) == 0
            ShareableList([3]).shm.unlink()
            assert (items.format, items[1]) == ("q8s", "two")
        """)
        assert out == "True\nTrue\n"


@pytest.mark.parametrize("before", [True, False])
def test_an_exception_around_the_creation_leaves_nothing_behind(monkeypatch, before):
    """A signal's handler may raise right before or after the call that creates."""
    names = []
    create = _core.segment_create

    def interrupted(name, *arguments):
        names.append(name)
        if not before:
            create(name, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(_core, "segment_create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SharedMemory(create=True, size=10)
    assert len(names) == 1
    with pytest.raises(FileNotFoundError):
        SharedMemory(names[0])


def test_the_rest_is_found_after_a_change_of_directory():
    package = os.path.dirname(os.path.abspath(shared_memory.__file__))
    code, out, err = run_python("""
        import os, sys
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != sys.argv[1]]
        os.chdir(sys.argv[1])
        sys.path.insert(0, ".")
        import shared_numpy
        os.chdir("/")
        sys.path.remove(".")
        from shared_numpy import shared_memory
        shared_memory.SharedMemory(create=True, size=10).unlink()
    """, os.path.dirname(package))
    assert (code, out, err) == (0, "", "")
