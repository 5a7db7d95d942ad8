"""Locks and their kin in one process: multiprocessing's interface and exceptions."""

import multiprocessing
import pickle
import threading
import weakref

import pytest

pytest.importorskip("numpy")

import shared_numpy as snp
from synchronizing import MAKERS, until


class Clears:
    """Asked for its truth it empties the dictionary that may hold the last reference to another argument."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.other = weakref.ref(arguments["timeout"])

    def __bool__(self):
        self.arguments.clear()
        assert self.other() is not None, "an argument is gone in the middle of the call"
        return True


class Seconds(float):
    """One that can be referred to weakly."""


def test_arguments_live_while_others_are_asked():
    lock, queue = snp.Lock(), snp.Queue(1)
    lock.acquire()
    queue.put(0)
    for call, arguments in [(lock.acquire, {}), (queue.put, {"obj": 1}), (snp.Queue().get, {})]:
        arguments["timeout"] = Seconds(0.02)
        arguments["block"] = Clears(arguments)
        try:
            assert call(**arguments) is False
        except (snp.queue.Full, snp.queue.Empty):
            pass
        assert not arguments
    queue.close()


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


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock, snp.Semaphore, snp.BoundedSemaphore])
def test_the_arguments_of_acquire(make):
    class Neither:
        def __bool__(self):
            raise KeyError("neither")

    lock = make()
    for args, keywords in [((True, None, 1), {}), ((), {"blocking": True}), ((True,), {"block": True}),
                           ((True, 1), {"timeout": 1}), ((True, "soon"), {}), ((), {"timeout": []})]:
        with pytest.raises(TypeError):
            lock.acquire(*args, **keywords)
    with pytest.raises(KeyError):
        lock.acquire(Neither())
    with pytest.raises(TypeError):
        lock.release(1)
    with pytest.raises(TypeError):
        make.acquire(object())
    assert not lock.locked()
    for args, keywords in [((), {}), ((1, 0), {}), ((), {"block": False, "timeout": None}), ((True,), {"timeout": 0.5}),
                           ((), {"timeout": -1}), (([],), {})]:
        assert lock.acquire(*args, **keywords) is True
        lock.release()
    with lock:
        assert lock.locked()
    assert make.__enter__(lock) and make.__exit__(lock, None, None, None) is None
    assert not lock.locked()


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock, snp.Semaphore, snp.BoundedSemaphore])
def test_a_timeout_is_a_number(make):
    lock = make()
    for _ in range(2):  # one has to wait, the other has not
        with pytest.raises(ValueError):
            lock.acquire(timeout=float("nan"))
        lock.acquire(False)


@pytest.mark.parametrize("wait", [
    lambda timeout: snp.Event().wait(timeout), lambda timeout: snp.Barrier(2).wait(timeout),
    lambda timeout: snp.Barrier(2, timeout=timeout).wait()])
def test_a_timeout_of_other_waits_is_a_number(wait):
    with pytest.raises(ValueError):
        wait(float("nan"))


def test_a_timeout_of_a_condition_is_a_number():
    condition = snp.Condition()
    with condition:
        with pytest.raises(ValueError):
            condition.wait(float("nan"))
        with pytest.raises(ValueError):
            condition.wait_for(list, float("nan"))
        condition.release()
        condition.acquire()


@pytest.mark.parametrize("make", [snp.Lock, snp.RLock, snp.Semaphore, snp.BoundedSemaphore])
def test_names_of_arguments_that_are_no_text(make):
    lock = make()
    # Before 3.9 CPython hands such names on to functions in C.
    for name in [1.5, b"abcabcabc", 2 ** 70, None, ("block",)]:
        with pytest.raises(TypeError):
            lock.acquire(**{name: 2})
        with pytest.raises(TypeError):
            lock.acquire(True, **{name: 2})
    assert not lock.locked()
    for name in ["timeout" + "\0", "\ud800", "zeit\xfc"]:
        with pytest.raises(TypeError):
            lock.acquire(**{name: 2})
    assert not lock.locked()


def test_a_lock_is_an_ordinary_object():
    class Named(snp.Lock):
        def __init__(self, name):
            super().__init__("raise")
            self.name = name

        def acquire(self, block=True, timeout=None):
            return (self.name, super().acquire(block, timeout))

    named = Named("first")
    assert named.acquire() == ("first", True)
    named.release()
    with named:
        assert named.locked()

    class Forgetful(snp.Lock):
        def __init__(self):
            pass

    for use in (Forgetful().acquire, Forgetful().release, Forgetful().locked, Forgetful().__enter__):
        with pytest.raises(RuntimeError):
            use()
    lock = snp.Lock()
    with lock:
        with pytest.raises(RuntimeError):
            lock.__init__()
        assert lock.locked()
    lock.note = "attributes can be set"
    seen = weakref.ref(lock)
    assert seen().note and seen().acquire(False)
    del lock
    assert seen() is None


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
    full = snp.Semaphore(2 ** 31 - 1)
    with pytest.raises(ValueError):
        full.release()


@pytest.mark.parametrize("module", [snp, multiprocessing])
def test_semaphores_of_any_size(module):
    for make in module.Semaphore, module.BoundedSemaphore:
        none, many = make(0), make(2 ** 31 - 1)
        assert none.get_value() == 0 and none.acquire(False) is False
        assert many.acquire() and many.get_value() == 2 ** 31 - 2
        many.release()
        with pytest.raises(OSError):
            make(-1)
        with pytest.raises(OverflowError):
            make(2 ** 31)
    with pytest.raises(ValueError):
        none.release()
    with pytest.raises(ValueError):
        many.release()


def test_more_units_than_can_be_acquired_at_a_time():
    semaphore = snp.BoundedSemaphore(65538)
    for _ in range(65536):
        assert semaphore.acquire()
    assert semaphore.get_value() == 2
    with pytest.raises(RuntimeError):
        semaphore.acquire()
    with pytest.raises(RuntimeError):
        semaphore.acquire(False)
    for _ in range(65536):
        semaphore.release()
    with pytest.raises(ValueError):
        semaphore.release()


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


def test_notify_of_any_number():
    condition = snp.Condition(snp.Lock())
    woken = []

    def wait():
        with condition:
            woken.append(condition.wait(60))

    def waiting():
        return condition._sleeping_count.get_value()

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: waiting() == 3)
    for number, left in [(-1, 3), (-2 ** 70, 3), (0, 3), (1, 2), (2 ** 70, 0)]:
        with condition:
            condition.notify(number)
            assert waiting() == left
    for thread in threads:
        thread.join()
    assert woken == [True] * 3
    with condition:
        with pytest.raises(TypeError):
            condition.notify("all")


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
