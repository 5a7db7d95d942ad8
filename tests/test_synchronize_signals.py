"""Locks and their kin while signals come: handlers that raise, and handlers that fork."""

import contextlib
import os
import signal
import threading
import time

import pytest

pytest.importorskip("numpy")

import shared_numpy as snp
from synchronizing import LONG, until


class Interrupt(Exception):
    pass


def held(make):
    lock = make()
    if isinstance(lock, snp.RLock):
        thread = threading.Thread(target=lock.acquire)
        thread.start()
        thread.join()
    else:
        lock.acquire()
    return lock.acquire


def in_condition():
    condition = snp.Condition()
    condition.acquire()
    return condition.wait


@pytest.mark.parametrize("wait", [
    lambda: held(snp.Lock), lambda: held(snp.RLock), lambda: held(snp.Semaphore),
    lambda: held(snp.BoundedSemaphore), lambda: snp.Event().wait, in_condition,
    lambda: snp.Barrier(2).wait])
def test_a_signal_ends_a_wait(wait):
    wait = wait()

    def handler(*_):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interrupt):
            wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Forking:
    """While entered: a signal comes soon, whose handler forks; the child goes on from there too."""

    def __init__(self, raises=None):
        self.child = None
        self._raises = raises

    def _handle(self, *_):
        self.child = os.fork()
        if self.child == 0 and self._raises:
            raise self._raises

    def __enter__(self):
        self._before = signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return self

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def wait(self):
        """Status of the child: the parent's part."""
        return os.waitpid(self.child, 0)[1]


def on_a_thread(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock, snp.Semaphore, snp.BoundedSemaphore])
def test_a_fork_while_a_lock_is_waited_for(make):
    # Both wait on, parent and child, and both get it.
    lock, got = make(), snp.AtomicInt()
    acquired, release = threading.Event(), threading.Event()

    def have():
        with lock:
            acquired.set()
            release.wait(LONG)

    holder = on_a_thread(have)
    acquired.wait(LONG)
    with Forking() as forking:
        threading.Timer(0.3, release.set).start()
        assert lock.acquire(timeout=LONG)
        got.add()
        lock.release()
        if forking.child == 0:
            os._exit(0)
    holder.join()
    assert forking.wait() == 0 and got.load() == 2


@pytest.mark.parametrize("raises", [None, SystemExit])
@pytest.mark.parametrize("make", [snp.Lock, snp.RLock])
def test_a_fork_while_a_condition_is_waited_for(make, raises):
    condition, told = snp.Condition(make()), snp.AtomicInt()
    parent = os.getpid()

    def tell():
        until(lambda: forking.child)
        until(told.load)
        # The parent waits still: its child has taken nothing from it.
        with condition:
            assert condition._cell.waiting() == 1
            told.add()
            condition.notify()

    with Forking(raises) as forking:
        teller = on_a_thread(tell)
        status = 1
        try:
            with condition:
                # Twice, where that can be.
                with condition if make is snp.RLock else contextlib.ExitStack():
                    notified = condition.wait(LONG)
                    assert os.getpid() == parent and notified and told.load() == 2
        except (RuntimeError, SystemExit) as error:
            # In the child, which had the lock as deep as the parent, until here.
            if os.getpid() == parent:
                raise
            is_right = isinstance(error, raises or RuntimeError)
            status = 0 if is_right and condition.acquire(timeout=LONG) else 2
            told.add()
            condition.release()
        finally:
            if os.getpid() != parent:
                os._exit(status)
    teller.join(LONG)
    assert forking.wait() == 0 and not condition._lock.locked()
    with condition:
        assert condition._cell.waiting() == 0


@pytest.mark.parametrize("raises", [None, SystemExit])
def test_a_fork_while_a_barrier_is_waited_for(raises):
    barrier, parent = snp.Barrier(2), os.getpid()
    passed = []

    def arrive():
        until(lambda: forking.child)
        status.append(forking.wait())
        # The child has arrived nowhere and broken nothing.
        passed.append((barrier.n_waiting, barrier.broken))
        passed.append(barrier.wait(LONG))

    status = []
    with Forking(raises) as forking:
        other = on_a_thread(arrive)
        code = 1
        try:
            index = barrier.wait(LONG)
        except (RuntimeError, SystemExit) as error:
            if os.getpid() == parent:
                raise
            code = 0 if type(error) is (raises or RuntimeError) else 2
        finally:
            if os.getpid() != parent:
                os._exit(code)
    other.join(LONG)
    assert index == 0 and passed == [(1, False), 1] and status == [0]


def test_a_fork_in_the_action_of_a_barrier():
    parent, children = os.getpid(), []
    barrier = snp.Barrier(1, lambda: children.append(os.fork()))
    code = 1
    try:
        assert barrier.wait(LONG) == 0
    except RuntimeError:
        code = 0
    finally:
        if os.getpid() != parent:
            os._exit(code)
    assert os.waitpid(children[0], 0)[1] == 0
    barrier._action = None
    assert not barrier.broken


class TooMuch(Exception):
    pass


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock])
def test_an_exception_in_a_condition_comes_with_the_lock(make):
    # The handler raises while the notified waiter waits for the lock, which another has.
    condition, told = snp.Condition(make()), threading.Event()

    def handler(*_):
        told.set()
        raise TooMuch

    def tell():
        until(lambda: condition._cell.waiting() == 1)
        with condition:
            condition.notify()
            told.wait(LONG)
            time.sleep(0.1)

    before = signal.signal(signal.SIGALRM, handler)
    teller = on_a_thread(tell)
    try:
        with pytest.raises(TooMuch):
            with condition:
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                try:
                    condition.wait(LONG)
                finally:
                    assert condition._lock._is_mine()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    teller.join(LONG)
    assert not condition._lock.locked()


class Noted(Exception):
    let_go = []

    def __del__(self):
        # Where it is run without the interpreter, there is no frame and no thread to tell.
        self.let_go.append(threading.current_thread())


def test_the_second_of_two_exceptions_in_a_condition_replaces_the_first():
    # The first ends the wait for the notify, the second that for the lock.
    condition = snp.Condition(snp.Lock())
    heard = []

    def handler(*_):
        heard.append(None)
        raise Noted(len(heard))

    def interrupt():
        until(lambda: condition._cell.waiting() == 1)
        with condition:
            for times in (1, 2):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
                until(lambda times=times: len(heard) == times)
            until(lambda: over)

    over = []
    before = signal.signal(signal.SIGALRM, handler)
    try:
        condition.acquire()
        other = on_a_thread(interrupt)
        with pytest.raises(Noted) as caught:
            condition.wait(LONG)
        assert caught.value.args == (2,)
        assert len(Noted.let_go) == 1, "the first one, and it is not kept for ever"
        assert Noted.let_go == [threading.main_thread()]
    finally:
        over.append(None)
        signal.signal(signal.SIGALRM, before)
    other.join(LONG)
