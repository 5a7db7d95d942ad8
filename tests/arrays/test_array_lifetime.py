"""How long an array lives, and what its name leads to: views keep it, closing takes nothing away."""

import gc
import os
import pickle
import subprocess
import sys
import textwrap

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import _core  # noqa: E402
from shared_numpy.shared_memory import SharedMemory  # noqa: E402
from array_samples import exists, name_of, same  # noqa: E402


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
