"""Memory is reserved or refused, never SIGBUS; a creation that is interrupted leaves nothing; no descriptor stays open."""

import errno
import os
import subprocess

import pytest

from shared_numpy import _core
from shared_numpy.shared_memory import SharedMemory
from programs import run_python
from standard_library import needs_standard


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
