"""Locks and their kin: multiprocessing's interface, deaths, interrupts, every start method."""

import multiprocessing
import os
import pickle
import signal
import threading
import time

import pytest

pytest.importorskip("numpy")

import shared_numpy as snp

# Longer than any step takes; a test that waits so long fails.
LONG = 60
MAKERS = [snp.Lock, snp.RLock, snp.Semaphore, snp.BoundedSemaphore, snp.Condition, snp.Event,
          lambda: snp.Barrier(1), snp.AtomicInt]


def until(is_so):
    end = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def run(context, target, *args):
    child = context.Process(target=target, args=args)
    child.start()
    return child


def ended(child):
    child.join(LONG)
    assert child.exitcode == 0


def killed(child):
    os.kill(child.pid, signal.SIGKILL)
    child.join(LONG)
    assert child.exitcode  # 255 where a fork server of 3.6 tells it


# -- children -------------------------------------------------------------------------


def count(lock, number):
    for _ in range(300):
        with lock:
            number.store(number.load() + 1)


def acquire_and_stay(lock, told):
    lock.acquire()
    told.set()
    time.sleep(LONG)


def try_lock(lock, result):
    result.store(1 if lock.acquire(False) else 2)


def wait_on(condition, ready, woken):
    with condition:
        ready.add()
        if condition.wait(LONG):
            woken.add()


def wait_at(barrier, told):
    told.set()
    barrier.wait(LONG)


def through(barrier, passed):
    for _ in range(20):
        barrier.wait(LONG)
        passed.add()


# -- in one process -------------------------------------------------------------------


def test_lock():
    lock = snp.Lock()
    assert lock.acquire() is True
    assert lock.locked() and not lock.abandoned
    assert lock.acquire(False) is False
    assert lock.acquire(timeout=0.01) is False
    assert lock.acquire(True, -1) is False
    assert lock.release() is None
    with pytest.raises(ValueError):
        lock.release()
    with lock as entered:
        assert entered is True and lock.locked()
    assert not lock.locked()
    with pytest.raises(TypeError):
        with lock:
            lock.acquire(timeout="soon")
    with pytest.raises(ValueError):
        snp.Lock("explode")


def test_lock_is_released_by_any_thread_and_rlock_is_not():
    lock, rlock = snp.Lock(), snp.RLock()
    lock.acquire()
    rlock.acquire()
    seen = []

    def other():
        lock.release()
        seen.append(rlock.acquire(False))
        try:
            rlock.release()
        except AssertionError as error:
            seen.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [False, "attempt to release recursive lock not owned by thread"]
    assert lock.acquire(False)


def test_rlock():
    lock = snp.RLock()
    for _ in range(3):
        assert lock.acquire()
    for _ in range(3):
        assert lock.locked()
        lock.release()
    assert not lock.locked()
    with pytest.raises(AssertionError):
        lock.release()


def test_representations():
    lock, rlock = snp.Lock(), snp.RLock()
    assert repr(lock) == "<Lock(owner=None)>" and repr(rlock) == "<RLock(None, 0)>"
    with lock, rlock, rlock:
        assert repr(lock) == "<Lock(owner=MainProcess)>"
        assert repr(rlock) == "<RLock(MainProcess, 2)>"
    assert repr(snp.Semaphore(3)) == "<Semaphore(value=3)>"
    assert repr(snp.BoundedSemaphore(2)) == "<BoundedSemaphore(value=2, maxvalue=2)>"
    assert repr(snp.AtomicInt(-5)) == "<AtomicInt(-5)>"
    assert repr(snp.Condition()) == "<Condition(<RLock(None, 0)>, 0)>"


def test_semaphores():
    for semaphore in snp.Semaphore(2), snp.BoundedSemaphore(2):
        assert semaphore.get_value() == 2
        assert semaphore.acquire() and semaphore.acquire()
        assert semaphore.get_value() == 0 and semaphore.locked()
        assert semaphore.acquire(False) is False
        assert semaphore.acquire(timeout=0.01) is False
        semaphore.release()
        semaphore.release()
        if isinstance(semaphore, snp.BoundedSemaphore):
            with pytest.raises(ValueError):
                semaphore.release()
        else:
            semaphore.release()
            assert semaphore.get_value() == 3
    with pytest.raises(OSError):
        snp.Semaphore(-1)
    with pytest.raises(ValueError):
        snp.BoundedSemaphore(0)
    full = snp.Semaphore(2 ** 31 - 1)
    with pytest.raises(ValueError):
        full.release()


def test_atomic_int():
    number = snp.AtomicInt()
    assert number.load() == 0 and number.add() == 1 and number.add(-3) == -2
    assert number.exchange(2 ** 63 - 1) == -2
    with pytest.raises(OverflowError):
        number.add()
    with pytest.raises(OverflowError):
        number.store(2 ** 63)
    assert number.load() == 2 ** 63 - 1
    assert number.compare_exchange(0, 1) is False
    assert number.compare_exchange(2 ** 63 - 1, 1) is True and number.load() == 1


def test_event():
    event = snp.Event()
    assert event.is_set() is False and event.wait(0) is False and event.wait(0.01) is False
    assert "unset" in repr(event)
    event.set()
    assert event.is_set() and event.wait() is True
    event.clear()
    assert not event.is_set()


def test_condition_needs_its_lock():
    for condition in snp.Condition(), snp.Condition(snp.Lock()):
        with pytest.raises(AssertionError):
            condition.wait()
        with pytest.raises(AssertionError):
            condition.notify()
        with condition:
            assert condition.wait(0.01) is False
            condition.notify()
            assert condition.wait_for(lambda: 7) == 7
            assert condition.wait_for(list, 0.01) == []
    with pytest.raises(TypeError):
        snp.Condition(multiprocessing.Lock())


def test_condition_keeps_the_depth_of_its_lock():
    condition = snp.Condition()
    with condition, condition:
        assert condition.wait(0.01) is False
    with pytest.raises(AssertionError):
        condition.release()


def test_barrier():
    called = []
    barrier = snp.Barrier(1, lambda: called.append(1))
    assert barrier.wait() == 0 and called == [1]
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (1, 0, False)
    barrier.abort()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert barrier.wait() == 0
    slow = snp.Barrier(2, timeout=0.01)
    with pytest.raises(threading.BrokenBarrierError):
        slow.wait()
    failing = snp.Barrier(1, lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.wait()
    assert failing.broken
    with pytest.raises(ValueError):
        snp.Barrier(0)


@pytest.mark.parametrize("make", MAKERS)
def test_plain_pickle_refuses(make):
    with pytest.raises(RuntimeError):
        pickle.dumps(make())


# -- waits that are interrupted -------------------------------------------------------


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


# -- between processes ----------------------------------------------------------------


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock, snp.Semaphore, snp.BoundedSemaphore,
                                  snp.Condition])
def test_processes_exclude_one_another(context, make):
    lock, number = make(), snp.AtomicInt()
    children = [run(context, count, lock, number) for _ in range(3)]
    count(lock, number)
    for child in children:
        ended(child)
    assert number.load() == 1200


def test_what_the_parent_has_the_child_has_not(context):
    for lock in snp.Lock(), snp.RLock():
        result = snp.AtomicInt()
        with lock:
            ended(run(context, try_lock, lock, result))
        assert result.load() == 2


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock])
def test_a_dead_owners_lock(context, make):
    lock, told = make(), snp.Event()
    child = run(context, acquire_and_stay, lock, told)
    assert told.wait(LONG)
    assert lock.acquire(False) is False and not lock.abandoned
    killed(child)
    assert lock.acquire(timeout=LONG)
    assert lock.abandoned
    lock.release()
    assert not lock.abandoned
    with lock:
        assert not lock.abandoned


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock])
def test_a_dead_owners_lock_that_raises(context, make):
    lock, told = make(on_abandoned="raise"), snp.Event()
    child = run(context, acquire_and_stay, lock, told)
    assert told.wait(LONG)
    killed(child)
    for _ in range(2):
        with pytest.raises(snp.AbandonedLock):
            lock.acquire(timeout=LONG)
    assert lock.abandoned and not lock.locked()
    assert lock.acquire_abandoned()
    lock.release()
    with lock:
        assert not lock.abandoned


def test_a_dead_owners_unit(context):
    semaphore, told = snp.BoundedSemaphore(1), snp.Event()
    child = run(context, acquire_and_stay, semaphore, told)
    assert told.wait(LONG)
    killed(child)
    assert semaphore.acquire(timeout=LONG)
    semaphore.release()
    with pytest.raises(ValueError):
        semaphore.release()


def test_condition_between_processes(context):
    condition, ready, woken = snp.Condition(), snp.AtomicInt(), snp.AtomicInt()
    children = [run(context, wait_on, condition, ready, woken) for _ in range(3)]
    until(lambda: ready.load() == 3)
    with condition:
        condition.notify()
    until(lambda: woken.load() == 1)
    with condition:
        condition.notify_all()
    for child in children:
        ended(child)
    assert woken.load() == 3


def test_a_notify_passes_over_the_dead():
    context = multiprocessing.get_context("fork")
    condition, ready, woken = snp.Condition(), snp.AtomicInt(), snp.AtomicInt()
    first = run(context, wait_on, condition, ready, woken)
    until(lambda: ready.load() == 1)
    second = run(context, wait_on, condition, ready, woken)
    until(lambda: ready.load() == 2)
    killed(first)
    time.sleep(0.3)  # so that the death may be looked for again
    with condition:
        condition.notify()
    ended(second)
    assert woken.load() == 1


def test_barrier_between_processes(context):
    barrier, passed = snp.Barrier(3), snp.AtomicInt()
    children = [run(context, through, barrier, passed) for _ in range(2)]
    through(barrier, passed)
    for child in children:
        ended(child)
    assert passed.load() == 60


def test_a_barrier_breaks_when_a_party_dies_in_it(context):
    barrier, told = snp.Barrier(3), snp.Event()
    child = run(context, wait_at, barrier, told)
    until(lambda: barrier.n_waiting == 1)
    killed(child)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(LONG)


@pytest.mark.parametrize("make", MAKERS)
def test_objects_travel_in_queues(make):
    queue = snp.Queue()
    sent = make()
    queue.put(sent)
    received = queue.get(timeout=LONG)
    assert type(received) is type(sent)
    if isinstance(sent, snp.Event):
        sent.set()
        assert received.is_set()
    elif isinstance(sent, snp.AtomicInt):
        sent.store(9)
        assert received.load() == 9
    queue.close()
    queue.join_thread()


def test_what_was_let_go_of_raises():
    lock = snp.Lock()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            snp.drop_inherited()
            lock.acquire()
        except ValueError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
