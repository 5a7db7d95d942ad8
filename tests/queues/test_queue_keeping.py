"""What a queue keeps: what is in it, and nothing of what failed, found no room or was not fetched."""

import gc
import pickle
import signal
from multiprocessing.reduction import ForkingPickler
from queue import Full

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from array_samples import exists, name_of  # noqa: E402
from queue_watch import PATIENCE_S, UNPICKLABLE, kept  # noqa: E402
from shared_numpy import Queue, _core  # noqa: E402


def test_what_cannot_be_pickled_raises_in_put(capfd):
    queue = Queue(1)
    a = snp.array([1, 2])
    name = name_of(a)
    with pytest.raises(UNPICKLABLE):
        queue.put([a, lambda: None])
    queue.put("still usable")
    assert queue.get(timeout=PATIENCE_S) == "still usable"
    del a
    assert not exists(name)
    queue.close()
    queue.join_thread()
    assert capfd.readouterr().err == ""


def test_an_array_that_found_no_room_is_not_kept():
    queue = Queue(1)
    queue.put("full")
    a = snp.array([1, 2, 3])
    name = name_of(a)
    for _ in range(3):
        with pytest.raises(Full):
            queue.put_nowait(a)
    del a
    assert not exists(name)
    assert queue.get(timeout=PATIENCE_S) == "full"
    queue.close()
    a = snp.array([1, 2, 3])
    name = name_of(a)
    with pytest.raises((ValueError, AssertionError)):
        queue.put(a)
    del a
    assert not exists(name)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_put_that_a_signal_ends_while_it_waits_keeps_nothing(error):
    def handler(number, frame):
        raise error("enough")

    queue = Queue(1)
    queue.put("full")
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(error, match="enough"):
            queue.put(snp.ones(5), timeout=60)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert snp.stats()["in_flight"] == 0
    assert queue.get(timeout=PATIENCE_S) == "full"


class Sends:
    """Sends an array by multiprocessing's pickler while it is pickled itself."""

    def __reduce__(self):
        return pickle.loads, (bytes(ForkingPickler.dumps(snp.array([4, 5, 6]))),)


def test_a_handle_that_is_too_old_raises_in_get_and_the_queue_goes_on():
    queue = Queue()
    queue.put([snp.array([1, 2, 3]), Sends()])
    queue.put("next")
    _core.trim(True)  # gives up what is on its way, but in queues
    with pytest.raises(snp.StaleHandle, match="given back"):
        queue.get(timeout=PATIENCE_S)
    assert queue.get(timeout=PATIENCE_S) == "next"


def test_what_is_in_a_queue_is_not_given_up():
    queue = Queue()
    queue.put(snp.array([1, 2, 3]))
    _core.trim(True)
    assert queue.get(timeout=PATIENCE_S).tolist() == [1, 2, 3]


def test_what_was_not_put_keeps_nothing():
    before = kept()[0]
    queue = Queue(1)
    with pytest.raises(UNPICKLABLE):
        queue.put([snp.array([1, 2, 3]), np.zeros(100000), snp.Lock(), lambda: None])
    queue.put("full")
    with pytest.raises(Full):
        queue.put_nowait([snp.array([1, 2, 3]), np.zeros(100000), snp.Lock()])
    assert snp.stats()["in_flight"] == 0
    queue.close()
    del queue
    assert kept()[0] == before


def test_what_a_put_sends_elsewhere_stays_when_it_fails():
    queue = Queue(1)
    sent = []

    class Tells:
        def __reduce__(self):
            sent.append(bytes(ForkingPickler.dumps(snp.array([4, 5, 6]))))
            return int, ()

    with pytest.raises(UNPICKLABLE):
        queue.put([snp.array([1, 2, 3]), Tells(), lambda: None])
    recycled = [snp.array([0, 0, 0]) for _ in range(5)]
    assert list(pickle.loads(sent[0])) == [4, 5, 6]
    del recycled


def test_the_producer_may_drop_the_array():
    queue = Queue()
    for number in range(20):
        queue.put(snp.full(3, number))
    gc.collect()
    for number in range(20):
        a = queue.get(timeout=PATIENCE_S)
        assert (a == number).all()
        a.unlink()


def test_a_queue_that_is_dropped_gives_back_what_is_in_it():
    before = kept()
    for kind in (snp.Queue, snp.JoinableQueue, snp.SimpleQueue):
        queue = kind()
        queue.put_many([snp.ones(1000), "x" * 100000, b"x" * 100000, np.ones(50000), [np.ones(50000)],
                        snp.Lock(), snp.Condition(), snp.AtomicInt(), snp.Queue(), snp.Latest(3)])
        queue.put_many([b"x" * 1000] * 5000)
        del queue
        assert kept() == before


def test_a_queue_that_is_closed_gives_back_what_is_in_it():
    before = kept()
    queue = Queue()
    empty = kept()
    queue.put_many([snp.ones(1000), "x" * 100000, b"x" * 100000, np.ones(50000), snp.Lock(), snp.Queue()])
    queue.put_many([b"x" * 1000] * 5000)
    queue.close()
    assert kept() == empty
    del queue
    assert kept() == before


@pytest.mark.parametrize("make", [
    snp.Lock, snp.RLock, lambda: snp.BoundedSemaphore(3), snp.Condition, snp.Event, lambda: snp.Barrier(2), snp.AtomicInt,
    snp.Queue, lambda: snp.Latest(3), lambda: [snp.Queue(), snp.Lock()]])
def test_what_is_in_a_queue_is_not_given_up_either_when_it_is_no_array(make):
    before = kept()
    queue = Queue()
    queue.put(make())
    snp.trim(True)  # gives up what expires some time after its sender
    assert queue.get(timeout=PATIENCE_S) is not None
    del queue
    assert kept() == before


def test_a_lock_that_went_through_a_queue_is_the_same_lock():
    queue, lock, number = Queue(), snp.Lock(), snp.AtomicInt(5)
    queue.put({"lock": lock, "again": [lock], "number": number})
    got = queue.get(timeout=PATIENCE_S)
    assert got["lock"] is got["again"][0] and got["lock"].acquire() and not lock.acquire(False)
    got["number"].add(2)
    assert number.load() == 7


def test_queues_in_each_other():
    before = kept()
    one, two = Queue(), Queue()
    one.put([two, snp.ones(3)])
    two.put_many([1, snp.ones(1000)])
    del one, two
    # The second was in the first, which nobody has: what was in the second is seen to by a look.
    snp.trim()
    assert kept() == before


def test_a_queue_in_itself():
    before = kept()
    queue = Queue()
    queue.put([queue, 1])
    got, one = queue.get(timeout=PATIENCE_S)
    got.put(2)
    assert one == 1 and queue.get(timeout=PATIENCE_S) == 2
    queue.put(queue)
    del queue, got
    snp.trim()
    assert kept() == before


def test_get_many_of_which_one_fails_keeps_nothing():
    queue = Queue()
    before = kept()
    queue.put_many([snp.ones(1000), Fails(), snp.ones(1000), "x" * 100000])
    with pytest.raises(ZeroDivisionError):
        queue.get_many(10)
    assert queue.empty()
    assert kept() == before


class Fails:
    def __reduce__(self):
        return divmod, (1, 0)


def test_an_error_while_a_batch_is_made_keeps_nothing():
    queue = Queue()
    before = kept()
    with pytest.raises(UNPICKLABLE):
        queue.put_many([snp.ones(1000), [snp.Lock(), snp.ones(3)], np.ones(50000), lambda: None])
    assert queue.empty() and kept() == before
