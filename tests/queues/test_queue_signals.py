"""Queues and signals: handlers run while a queue is waited for, and may do whatever they like."""

import contextlib
import os
import signal
import threading

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from queue_watch import PATIENCE_S, kept  # noqa: E402
from shared_numpy import Queue  # noqa: E402
from shared_numpy.queue import Empty, Full  # noqa: E402


class Enough(Exception):
    pass


@contextlib.contextmanager
def soon(do):
    """Calls `do` in a signal handler of the main thread, a little later."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: do())
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def enough():
    raise Enough


def full_queue(kind=Queue):
    queue = kind(1)
    queue.put("full")
    return queue


WAITS = {
    "get": lambda queue, full: queue.get(),
    "get, timeout": lambda queue, full: queue.get(timeout=PATIENCE_S),
    "get_many": lambda queue, full: queue.get_many(5),
    "put": lambda queue, full: full.put([snp.Lock(), "x" * 100000]),
    "put, timeout": lambda queue, full: full.put("x", timeout=PATIENCE_S),
    "put_many": lambda queue, full: full.put_many([snp.Lock(), snp.Queue()]),
    "join": lambda queue, full: full.join(),
    "join, timeout": lambda queue, full: full.join(PATIENCE_S),
}


@pytest.mark.parametrize("wait", sorted(WAITS))
@pytest.mark.parametrize("error", [Enough, KeyboardInterrupt, SystemExit, Empty, Full])
def test_what_a_handler_raises_ends_the_wait(wait, error):
    def fail():
        raise error

    queue, full = Queue(), full_queue(snp.JoinableQueue)
    before = kept()
    with soon(fail):
        with pytest.raises(error):
            WAITS[wait](queue, full)
    assert kept() == before
    assert full.get() == "full"
    queue.put(1)
    assert queue.get() == 1


@pytest.mark.parametrize("wait", sorted(WAITS))
def test_an_interrupt_from_the_keyboard(wait):
    queue, full = Queue(), full_queue(snp.JoinableQueue)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        WAITS[wait](queue, full)
        timer.join()
    timer.join()


def test_a_handler_that_puts_into_the_same_queue():
    queue = Queue()
    with soon(lambda: queue.put("from the handler")):
        assert queue.get(timeout=PATIENCE_S) == "from the handler"


def test_a_handler_that_makes_room():
    queue, got = full_queue(), []
    with soon(lambda: got.append(queue.get())):
        queue.put("next", timeout=PATIENCE_S)
    assert got == ["full"] and queue.get() == "next"


def test_a_handler_that_gets_and_puts_while_many_are_put():
    queue, got = full_queue(), []

    def consume():
        got.append(queue.get())
        signal.setitimer(signal.ITIMER_REAL, 0.02)

    with soon(consume):
        assert queue.put_many(range(10), timeout=PATIENCE_S) == 10
    signal.setitimer(signal.ITIMER_REAL, 0)
    got += queue.get_many(10) if not queue.empty() else []
    assert got == ["full"] + list(range(10))


@pytest.mark.parametrize("take", [
    lambda a: a.resize(10, refcheck=False), lambda a: a.resize(1 << 22, refcheck=False),
    lambda a: a.__setstate__(np.arange(5).__reduce__()[2])])
@pytest.mark.parametrize("length", [100, 1 << 20])
@pytest.mark.parametrize("put", [
    lambda full, a: full.put(a, timeout=PATIENCE_S), lambda full, a: full.put_many(["x", a], timeout=PATIENCE_S)])
def test_a_handler_that_takes_an_arrays_memory_away(take, length, put):
    full, a = full_queue(), np.ones(length)
    snp.empty(1)  # before that an array is pickled at once

    def handler():
        take(a)
        full.get()

    with soon(handler), pytest.raises(ValueError, match="other memory"):
        put(full, a)
    assert full.empty()
    full.put(a)
    assert full.get().tolist() == a.tolist()


def test_a_handler_that_is_done_with_everything():
    queue = full_queue(snp.JoinableQueue)
    with soon(queue.task_done):
        assert queue.join(PATIENCE_S)


def test_a_handler_that_closes_the_queue():
    for use in ("get", "put"):
        queue = full_queue() if use == "put" else Queue()
        with soon(queue.close):
            with pytest.raises(ValueError, match="closed"):
                queue.put(1) if use == "put" else queue.get()


def ended_well(pid):
    return os.waitpid(pid, 0)[1] == 0


def test_a_handler_that_forks():
    """The child comes back from the handler into the same get, and goes on with it."""
    queue, told = Queue(), Queue()
    pids = []
    with soon(lambda: pids.append(os.fork()) or queue.put(("from", os.getpid()))):
        got = None
        try:
            got = queue.get(timeout=PATIENCE_S)
        finally:
            if pids == [0]:
                told.put(got)
                os._exit(0 if got else 1)
    assert ended_well(pids[0])
    both = [got, told.get(timeout=PATIENCE_S)]
    assert sorted(pid for _, pid in both) == sorted([os.getpid(), pids[0]])
    assert queue.empty()


def test_a_handler_that_forks_while_there_is_no_room():
    """Both go on with the put, and there is room for one of them."""
    queue = full_queue()
    pids = []

    def fork():
        pids.append(os.fork())
        if pids[0]:
            queue.get()

    with soon(fork):
        outcome = 2
        try:
            queue.put("x" * 100000, timeout=1)
            outcome = 0
        except Full:
            outcome = 1
        finally:
            if pids == [0]:
                os._exit(outcome)
    child = os.waitpid(pids[0], 0)[1] >> 8
    assert sorted([outcome, child]) == [0, 1]
    assert queue.get(timeout=PATIENCE_S) == "x" * 100000 and queue.empty()
