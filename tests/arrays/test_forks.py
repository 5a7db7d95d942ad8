"""Forks of every kind: parent and child each keep, drop, send and end in any order."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from programs import needs_tracker  # noqa: E402


def forked(work, fork=os.fork):
    """Runs `work` in a forked child; its result must be true."""
    pid = fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def in_use():
    snp.trim()
    return snp.stats()["in_use_bytes"]


def run(script, *arguments, **keywords):
    """A script in an interpreter of its own, silent on stderr; what it printed."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)] + list(arguments),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          timeout=120, **keywords)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(autouse=True)
def nothing_is_held():
    before = in_use()
    yield
    # A child that is killed as it begins is missed after ten seconds.
    end = time.monotonic() + 30
    while in_use() != before and time.monotonic() < end:
        time.sleep(0.05)
    assert in_use() == before


# -- who drops first ------------------------------------------------------------------


def test_the_parent_drops_first():
    a = snp.full(1000, 7.0)
    ours, theirs = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        try:
            theirs.recv()
            theirs.send(bool((a == 7).all()))
            os._exit(0)
        finally:
            os._exit(1)
    del a
    others = [snp.full(1000, 9.0) for _ in range(20)]
    ours.send(None)
    assert ours.recv()
    assert os.waitpid(pid, 0)[1] == 0
    del others


def test_the_child_drops_first():
    a = snp.full(1000, 7.0)
    kept = [a]

    def work():
        nonlocal a
        del a
        kept.clear()
        return snp.stats()["held_blocks"] == 0

    forked(work)
    assert (a == 7).all()


def test_the_parent_ends_first():
    read, write = os.pipe()
    a = snp.full(1000, 7.0)
    pid = os.fork()
    if pid == 0:
        # The child ends at once; the grandchild goes on alone.
        if os.fork():
            os._exit(0)
        try:
            time.sleep(0.2)
            b = snp.full(1000, 9.0)
            good = bool((a == 7).all() and (b == 9).all())
            os.write(write, b"1" if good else b"0")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    del a
    os.close(write)
    assert os.read(read, 1) == b"1"
    assert os.read(read, 1) == b""  # it has ended
    os.close(read)


@needs_tracker
def test_slices_and_sending_from_the_child():
    a = snp.array(np.arange(100.0))
    queue = snp.Queue()

    def work():
        queue.put(a[10:20])
        queue.put(snp.full(5, 3.0))
        queue.close()
        queue.join_thread()
        return True

    forked(work)
    view, new = queue.get(timeout=30), queue.get(timeout=30)
    assert view.tolist() == list(range(10, 20)) and new.tolist() == [3.0] * 5
    view[0] = -1
    assert a[10] == -1
    queue.close()
    queue.join_thread()


def test_a_child_makes_arrays_of_its_own():
    a = snp.full(1000, 1.0)

    def work():
        b = [snp.full(1000, 2.0) for _ in range(50)]
        return bool((a == 1).all() and all((each == 2).all() for each in b))

    forked(work)
    assert (a == 1).all()


def test_generations():
    a = snp.full(100, 4.0)

    def child():
        b = snp.full(100, 5.0)

        def grandchild():
            c = snp.full(100, 6.0)
            return bool((a == 4).all() and (b == 5).all() and (c == 6).all())

        forked(grandchild)
        return True

    forked(child)


def test_many_forks():
    a = snp.full(100, 4.0)
    for _ in range(100):
        forked(lambda: bool((a == 4).all()))


# -- other ways to fork ---------------------------------------------------------------


def _sum(a, queue):
    queue.put(float(a.sum()))


def test_multiprocessing(context):
    a = snp.full(1000, 2.0)
    queue = context.Queue()
    workers = [context.Process(target=_sum, args=(a[i:], queue)) for i in range(3)]
    for worker in workers:
        worker.start()
    assert sorted(queue.get(timeout=60) for _ in workers) == [1996.0, 1998.0, 2000.0]
    for worker in workers:
        worker.join(60)
    queue.close()
    queue.join_thread()


def test_from_c():
    a = snp.full(1000, 7.0)
    # Python's own after-fork hooks are passed by; `PyDLL` keeps the GIL over it.
    fork = ctypes.PyDLL(None).fork

    def work():
        b = snp.full(1000, 8.0)
        return bool((a == 7).all() and (b == 8).all())

    forked(work, fork)


def test_while_other_threads_allocate():
    stop = threading.Event()
    errors = []

    def churn():
        number = 0.0
        while not stop.is_set():
            number += 1
            arrays = [snp.full(size, number) for size in (1, 100, 5000, 60000)]
            if not all((each == number).all() for each in arrays):
                errors.append(number)

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        a = snp.full(1000, 7.0)
        for _ in range(40):
            def work():
                b = snp.full(1000, 8.0)
                return bool((a == 7).all() and (b == 8).all())
            forked(work)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors


@pytest.mark.parametrize("with_preexec", [False, True])
def test_subprocess(with_preexec):
    before = in_use()
    a = snp.full(1000, 7.0)
    keywords = {"preexec_fn": os.getpid} if with_preexec else {}
    child = subprocess.Popen(["sleep", "60"], **keywords)
    try:
        del a
        # The other program holds nothing, though it runs.
        end = time.monotonic() + 30
        while in_use() != before and time.monotonic() < end:
            time.sleep(0.1)
        assert in_use() == before
    finally:
        child.kill()
        child.wait()


def test_a_daemon_that_closes_everything():
    out = run("""
        import os, time
        import numpy as np
        import shared_numpy as snp
        a = snp.array(np.arange(1000))
        read, write = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.dup2(write, 9)
            os.closerange(0, 9)
            os.closerange(10, 4096)
            try:
                stranger = [os.open("/dev/null", os.O_RDWR) for _ in range(8)]
                b = snp.array(a[::-1])
                c = snp.empty((500, 1000))
                c[...] = 3
                good = a.tolist() == list(range(1000)) and b[0] == 999 and c.sum() == 1500000
                del c
                snp.trim()
                good = good and all(os.fstat(fd).st_rdev == os.stat("/dev/null").st_rdev for fd in stranger)
                os.write(9, b"1" if good else b"0")
            finally:
                os._exit(0)
        os.wait()
        os.close(write)
        print(os.read(read, 1).decode())
    """)
    assert out == "1\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_setuid_after_fork():
    a = snp.full(1000, 7.0)

    def work():
        os.setgid(65534)
        os.setuid(65534)
        b = snp.full(1000, 8.0)
        a[0] = 1
        return bool((a[1:] == 7).all() and (b == 8).all())

    forked(work)
    assert a[0] == 1


# -- servers that fork workers ----------------------------------------------------------


def test_prefork_server():
    """As gunicorn: the master loads data, workers come and go, some by SIGKILL."""
    data = snp.array(np.arange(10000.0))
    workers = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                while True:
                    mine = snp.array(data * 2)
                    assert mine.sum() == 2 * data.sum()
            finally:
                os._exit(1)
        workers.append(pid)
    time.sleep(0.3)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    for pid in workers:
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert data.sum() == np.arange(10000.0).sum()


def _double(a):
    a *= 2
    return a


def test_worker_pool_with_recycled_workers():
    """As celery: a pool whose workers are replaced after a few tasks."""
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=3) as pool:
        for _ in range(10):
            arrays = [snp.full(100, float(i)) for i in range(4)]
            doubled = pool.map(_double, arrays, chunksize=1)
            for i, (a, b) in enumerate(zip(arrays, doubled)):
                assert (a == 2.0 * i).all() and (b == 2.0 * i).all()
            del arrays, doubled, a, b


# -- letting go of what was inherited ---------------------------------------------------


def test_drop_inherited():
    a = snp.full(1000, 7.0)
    z = snp.full(1000, 7 + 7j)
    view = a[::2]
    flags = a.view(np.bool_)[:10]

    def work():
        stats = snp.stats()
        assert stats["inherited_blocks"] == 2 and stats["inherited_bytes"] >= 24000
        mine = snp.full(10, 1.0)
        assert snp.drop_inherited() == 2
        stats = snp.stats()
        assert (stats["inherited_blocks"], stats["held_blocks"]) == (0, 1)
        uses = [
            lambda: a[0], lambda: view[1:], lambda: a + 1, lambda: 1 + view, lambda: np.sin(a),
            lambda: a.sum(), lambda: np.sum(view), lambda: a.tolist(), lambda: repr(a), lambda: list(a),
            lambda: a.__setitem__(0, 1), lambda: a.fill(0), lambda: np.add(mine, 1, out=a[:10]),
            lambda: a.copy(), lambda: a.shm, lambda: a == a, lambda: np.concatenate([a, a]),
            lambda: snp.array(a), lambda: snp.Queue().put(a),
            lambda: np.add(mine, 1, out=np.ones(10), where=flags),
        ]
        uses += [lambda array=array, name=name: setattr(array, name, 0)
                 for array in (a, view, z) for name in ("real", "imag", "flat")]
        for number, use in enumerate(uses):
            with pytest.raises((ValueError, BufferError), match="drop_inherited"):
                use()
                print("use", number, "was let through", file=sys.stderr)
        # What is the child's own goes on.
        mine += 1
        assert mine.sum() == 20 and (mine + mine)[0] == 4 and repr(mine).startswith("SharedNDArray")
        pair = snp.full(2, 1j)
        pair.real, pair.imag, mine.flat = 3, 4, 2
        assert pair.tolist() == [3 + 4j] * 2
        with pytest.raises(AttributeError):
            mine.T = mine
        mask = snp.array([True, False] * 5)
        assert np.add(mine, 1, out=np.zeros(10), where=mask).sum() == 15
        assert np.add.reduce(np.ones(10), where=mask) == 5
        assert a.shape == (1000,) and a.dtype == np.dtype(float)
        return True

    forked(work)
    assert (a == 7).all() and (z == 7 + 7j).all()


# -- what is used for the first time ----------------------------------------------------

# What a child makes for the first time while another of its threads forks must be there in the grandchild.
FIRST = """
    import os, pickle, signal, sys, threading, time
    import numpy as np
    import shared_numpy as snp
    from multiprocessing.reduction import ForkingPickler

    a, queue = snp.zeros(10), snp.Queue()
    dtype = pickle.loads(pickle.dumps(np.dtype("f8")))
    fields = np.zeros(3, dtype=[("x", "i4"), ("y", "f8")])
    first = {
        "pickle": lambda: ForkingPickler.dumps(a),
        "dtype": lambda: queue.put(np.zeros(3, dtype)),
        "fields": lambda: queue.put(fields),
    }[sys.argv[1]]
    sys.setswitchinterval(1e-6)
    for attempt in range(int(sys.argv[2])):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # whoever hangs ends, and nobody is left
            is_on = threading.Event()
            thread = threading.Thread(target=lambda: (is_on.set(), first()), daemon=True)
            thread.start()
            is_on.wait()
            for _ in range(attempt % 20):
                time.sleep(0)
            grandchild = os.fork()
            if grandchild == 0:
                signal.alarm(30)
                first()
                os._exit(0)
            thread.join()
            os._exit(os.waitpid(grandchild, 0)[1] != 0)
        assert os.waitpid(child, 0)[1] == 0, attempt
"""


@pytest.mark.parametrize("what", ["pickle", "dtype", "fields"])
def test_what_another_thread_does_for_the_first_time_is_not_waited_for_in_a_child(what):
    run(FIRST, what, "150", env=dict(os.environ, PYTHONWARNINGS="ignore"))
