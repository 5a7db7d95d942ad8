"""What the tests of locks and their kin share: waiting for things, children and what they do."""

import os
import signal
import time

import shared_numpy as snp

MAKERS = [snp.Lock, snp.RLock, snp.Semaphore, snp.BoundedSemaphore, snp.Condition, snp.Event,
          lambda: snp.Barrier(1), snp.AtomicInt]
# Longer than any step takes; a test that waits so long fails.
LONG = 60


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


def count(lock, number):
    for _ in range(300):
        with lock:
            number.store(number.load() + 1)


def acquire_and_stay(lock, told):
    lock.acquire()
    told.set()
    time.sleep(LONG)


def try_lock(lock, result):
    try:
        result.store(1 if lock.acquire(False) else 2)
    except snp.AbandonedLock:
        result.store(3)


def put_right(lock, result):
    """What a process does that knows how to repair what the lock guards."""
    try:
        lock.acquire()
    except snp.AbandonedLock:
        lock.acquire_abandoned()
        result.store(4 if lock.abandoned else 5)
        lock.release()


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
