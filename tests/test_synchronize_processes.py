"""Locks and their kin between processes, under each start method, and when one of them is killed."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

pytest.importorskip("numpy")

import shared_numpy as snp
from synchronizing import (
    LONG, MAKERS, acquire_and_stay, count, ended, killed, put_right, run, through, try_lock, until, wait_at, wait_on)


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
    # Here and in every other process, however often.
    result = snp.AtomicInt()
    for _ in range(2):
        with pytest.raises(snp.AbandonedLock):
            lock.acquire(timeout=LONG)
        with pytest.raises(snp.AbandonedLock):
            with lock:
                result.store(9)
        ended(run(context, try_lock, lock, result))
        assert result.load() == 3
    assert lock.abandoned and not lock.locked()
    # Who has it to put things right has it alone.
    assert lock.acquire_abandoned() and lock.abandoned
    ended(run(context, try_lock, lock, result))
    assert result.load() == 2
    lock.release()
    with lock:
        assert not lock.abandoned
    ended(run(context, try_lock, lock, result))
    assert result.load() == 1
    # That child died as well, with the lock.
    ended(run(context, put_right, lock, result))
    assert result.load() == 4
    with lock:
        assert not lock.abandoned


def be_refused(lock, result):
    try:
        lock.acquire(timeout=LONG)
    except snp.AbandonedLock:
        result.store(3)


def notify_and_die(condition):
    with condition:
        condition.notify()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock])
def test_a_wait_that_ends_with_an_abandoned_lock_puts_nothing_right(context, make):
    lock, result = make(on_abandoned="raise"), snp.AtomicInt()
    condition = snp.Condition(lock)
    with pytest.raises(snp.AbandonedLock):
        with condition:
            child = run(context, notify_and_die, condition)
            condition.wait(LONG)
    child.join()
    for _ in range(2):
        with pytest.raises(snp.AbandonedLock):
            with condition:
                result.store(9)
    # Again, with what it raises caught inside.
    lock.acquire_abandoned()
    lock.release()
    with condition:
        child = run(context, notify_and_die, condition)
        for _ in range(2):
            with pytest.raises(snp.AbandonedLock):
                condition.wait(1)
    ended(run(context, try_lock, lock, result))
    assert result.load() == 3 and lock.abandoned
    child.join()
    lock.acquire_abandoned()
    lock.release()
    with condition:
        assert not lock.abandoned


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock])
def test_a_wait_in_the_middle_of_a_repair_lets_nobody_in(context, make):
    lock, told, result = make(on_abandoned="raise"), snp.Event(), snp.AtomicInt()
    condition = snp.Condition(lock)
    child = run(context, acquire_and_stay, lock, told)
    assert told.wait(LONG)
    killed(child)
    assert lock.acquire_abandoned(timeout=LONG)
    child = run(context, be_refused, lock, result)
    while child.is_alive():
        assert condition.wait(0.05) is False  # it knows, and is not told anew
    ended(child)
    assert result.load() == 3
    assert lock.abandoned
    lock.release()
    with condition:
        assert not lock.abandoned


def repair_and_die(condition, lock):
    """Repairs what another one, which waits, was about to, and dies with it when it has the lock again."""
    lock.acquire_abandoned()
    lock.release()
    notify_and_die(condition)


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock])
def test_a_wait_in_the_middle_of_a_repair_is_told_of_a_new_death(context, make):
    lock, told = make(on_abandoned="raise"), snp.Event()
    condition = snp.Condition(lock)
    child = run(context, acquire_and_stay, lock, told)
    assert told.wait(LONG)
    killed(child)
    assert lock.acquire_abandoned(timeout=LONG)
    child = run(context, repair_and_die, condition, lock)
    with pytest.raises(snp.AbandonedLock):
        condition.wait(LONG)
    lock.release()
    child.join()
    with pytest.raises(snp.AbandonedLock):
        lock.acquire()


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
