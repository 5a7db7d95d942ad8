"""Queues in one process: the interface of multiprocessing's, limits, batches, errors."""

import gc
import math
import multiprocessing
import pickle
import queue as standard
import sys
import threading
import time
from multiprocessing.reduction import ForkingPickler

import pytest

import shared_numpy as snp
from queue_watch import PATIENCE_S, UNPICKLABLE, kept
from shared_numpy import Queue
from shared_numpy.queue import Empty, Full

ALL = (snp.Queue, snp.JoinableQueue, snp.SimpleQueue)


@pytest.mark.parametrize("kind", ALL)
def test_they_are_classes(kind):
    queue = kind()
    assert isinstance(kind, type) and isinstance(queue, kind)
    assert issubclass(snp.JoinableQueue, snp.Queue)
    assert kind.__name__ in repr(queue) and "shared_numpy" in repr(queue)
    queue.close()
    queue.close()
    queue.join_thread()


@pytest.mark.parametrize("kind", ALL + (snp.Latest,))
def test_annotations_can_say_what_is_in_them(kind):
    assert (sys.version_info < (3, 7)) or kind[int] is not None
    if sys.version_info >= (3, 9):
        assert kind[int].__args__ == (int,)


def test_the_exceptions_are_the_standard_ones():
    assert Full is standard.Full and Empty is standard.Empty
    assert issubclass(snp.PeerDied, EOFError)


@pytest.mark.parametrize("kind", ALL)
def test_it_has_what_multiprocessings_has(kind):
    theirs = getattr(multiprocessing, kind.__name__)()
    public = [name for name in dir(theirs) if not name.startswith("_")]
    queue = kind()
    assert [name for name in public if not callable(getattr(queue, name, None))] == []


def test_interface():
    queue = Queue(2)
    assert queue.maxsize == 2
    assert queue.empty() and not queue.full() and queue.qsize() == 0
    queue.put(1)
    queue.put_nowait("two")
    assert queue.full() and queue.qsize() == 2
    with pytest.raises(Full):
        queue.put_nowait(3)
    with pytest.raises(Full):
        queue.put(3, True, 0.01)
    assert queue.get(timeout=PATIENCE_S) == 1 and queue.get(True, PATIENCE_S) == "two"
    with pytest.raises(Empty):
        queue.get_nowait()
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    assert queue.empty()
    queue.put(None, block=False)
    assert queue.get(timeout=PATIENCE_S) is None
    queue.cancel_join_thread()
    queue.close()
    with pytest.raises(ValueError, match="closed"):
        queue.put(1)


@pytest.mark.parametrize("maxsize", [0, -1, -2 ** 40])
def test_no_limit(maxsize):
    queue = Queue(maxsize)
    assert queue.put_many(range(10000)) == 10000
    assert not queue.full() and queue.qsize() == 10000
    assert queue.get_many(20000) == list(range(10000))


@pytest.mark.parametrize("maxsize", ["1", None, 1.5, 2 ** 64])
def test_no_such_limit(maxsize):
    with pytest.raises((TypeError, OverflowError)):
        Queue(maxsize)


def test_a_class_of_ones_own():
    class Mine(Queue):
        def __init__(self, name):
            super().__init__(3)
            self.name = name

        def put(self, obj, *args, **keywords):
            super().put((self.name, obj), *args, **keywords)

    queue = Mine("it")
    queue.put(1)
    assert queue.get() == ("it", 1) and queue.maxsize == 3


def test_one_that_was_not_made():
    class Mine(Queue):
        def __init__(self):
            pass

    queue = Mine()
    for use in (lambda: queue.put(1), queue.get, queue.qsize, queue.close, lambda: queue.maxsize):
        with pytest.raises(RuntimeError, match="__init__"):
            use()
    with pytest.raises(RuntimeError, match="twice"):
        made_twice()


def made_twice():
    queue = Queue()
    queue.__init__()
    return queue


def test_plain_pickle_refuses():
    for kind in ALL:
        queue = kind()
        with pytest.raises(RuntimeError, match="inheritance"):
            pickle.dumps(queue)
    assert kept()[1] == 0


def test_a_second_object_for_the_same_queue():
    queue = Queue(5)
    other = ForkingPickler.loads(ForkingPickler.dumps(queue))
    assert type(other) is Queue and other.maxsize == 5
    queue.put(1)
    other.put(2)
    assert queue.qsize() == other.qsize() == 2
    assert other.get() == 1 and queue.get() == 2
    other.close()
    queue.put(3)  # it is the object that is closed
    assert queue.get() == 3


# -- timeouts ------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [-1, 0, 0.0, -0.5, 1e-9, float("-inf")])
def test_timeouts_that_are_none_or_hardly_any(timeout):
    queue = Queue(1)
    with pytest.raises(Empty):
        queue.get(True, timeout)
    with pytest.raises(Empty):
        queue.get_many(5, True, timeout)
    assert queue.put_many([1, 2], True, timeout) == 1
    with pytest.raises(Full):
        queue.put(2, True, timeout)
    with pytest.raises(Full):
        queue.put_many([2, 3], True, timeout)
    assert queue.get(True, timeout) == 1


@pytest.mark.parametrize("timeout", [None, 1e300, float("inf"), 2 ** 70, True])
def test_timeouts_that_are_long(timeout):
    queue = Queue(1)
    queue.put(1, timeout=timeout)
    assert queue.get(timeout=timeout) == 1
    thread = threading.Thread(target=lambda: (time.sleep(0.1), queue.put(2)))
    thread.start()
    assert queue.get(timeout=timeout) == 2
    thread.join()


@pytest.mark.parametrize("timeout, error", [("1", TypeError), ([], TypeError), (1j, TypeError), (math.nan, ValueError)])
def test_what_is_no_timeout(timeout, error):
    queue = snp.JoinableQueue(1)
    for use in (queue.get, lambda timeout: queue.put(1, timeout=timeout), queue.join,
                lambda timeout: queue.put_many([1], timeout=timeout), lambda timeout: queue.get_many(1, timeout=timeout)):
        with pytest.raises(error):
            use(timeout=timeout)
    assert queue.empty()


def test_block_is_what_is_true():
    queue = Queue(1)
    for false in (0, "", None, []):
        with pytest.raises(Empty):
            queue.get(false, 1000)
    queue.put(1, 1)
    assert queue.get([0]) == 1


# -- batches -------------------------------------------------------------------------


def test_put_many():
    queue = Queue(100)
    assert queue.put_many(iter("abc")) == 3
    assert queue.put_many([]) == queue.put_many((), False) == 0
    assert queue.put_many(number for number in range(5)) == 5
    assert queue.get_many(10) == list("abc") + list(range(5))
    assert queue.put_many(range(150), False) == 100
    assert queue.full()
    with pytest.raises(Full):
        queue.put_many([1], False)
    with pytest.raises(Full):
        queue.put_many([1, 2], timeout=0.01)
    assert queue.put_many([], False) == 0
    assert queue.get_many(1000) == list(range(100))


def test_put_many_waits_for_room():
    queue = Queue(7)
    got = []

    def consume():
        while len(got) < 500:
            got.extend(queue.get_many(3, timeout=PATIENCE_S))

    thread = threading.Thread(target=consume)
    thread.start()
    assert queue.put_many(range(500), timeout=PATIENCE_S) == 500
    thread.join()
    assert got == list(range(500))


def test_put_many_of_what_is_no_iterable():
    queue = Queue()
    with pytest.raises(TypeError):
        queue.put_many(5)

    def fails():
        yield 1
        raise KeyError("in the generator")

    with pytest.raises(KeyError):
        queue.put_many(fails())
    assert queue.empty()


def test_put_many_puts_batches_whole_or_not_at_all():
    queue = Queue()
    with pytest.raises(UNPICKLABLE):
        queue.put_many(list(range(63)) + [lambda: None])
    assert queue.empty()
    with pytest.raises(UNPICKLABLE):
        queue.put_many(list(range(64 + 10)) + [lambda: None])
    assert queue.get_many(1000) == list(range(64))


def test_get_many():
    queue = Queue()
    queue.put_many(range(1000))
    assert queue.get_many(0) == []
    assert queue.get_many(1) == [0]
    assert queue.get_many(64) == list(range(1, 65))
    assert queue.get_many(10 ** 9) == list(range(65, 1000))
    with pytest.raises(Empty):
        queue.get_many(5, False)
    with pytest.raises(Empty):
        queue.get_many(5, timeout=0.01)
    assert queue.get_many(0) == []
    for no_number in (-1, "1", None, 1.5):
        with pytest.raises((OverflowError, TypeError)):
            queue.get_many(no_number)


def test_get_many_does_not_wait_for_more_than_one():
    queue = Queue()
    thread = threading.Thread(target=lambda: (time.sleep(0.1), queue.put(1)))
    thread.start()
    assert queue.get_many(100, timeout=PATIENCE_S) == [1]
    thread.join()


# -- errors --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_what_cannot_be_pickled_raises_in_put(kind, capfd):
    queue = kind()
    before = kept()
    for _ in range(3):
        with pytest.raises(UNPICKLABLE):
            queue.put([snp.Lock(), "x" * 100000, snp.Queue(), lambda: None])
    assert kept() == before
    queue.put("still usable")
    assert queue.get() == "still usable"
    queue.close()
    queue.join_thread()
    assert capfd.readouterr().err == ""


def test_what_is_put_is_as_it_was_then():
    queue = Queue()
    items = [1]
    queue.put(items)
    items.append(2)
    assert queue.get(timeout=PATIENCE_S) == [1]


def test_what_found_no_room_is_not_kept():
    queue = Queue(1)
    queue.put("full")
    before = kept()
    for big in ("x" * 10 ** 6, b"x" * 10 ** 6, [snp.Lock(), snp.Queue()]):
        with pytest.raises(Full):
            queue.put_nowait(big)
        with pytest.raises(Full):
            queue.put_many([big, big], timeout=0.01)
        del big
    assert kept() == before
    assert queue.get() == "full"


def test_an_item_that_is_too_much_for_memory(monkeypatch):
    queue = Queue()
    with pytest.raises(OverflowError):
        queue.get_many(2 ** 64)
    queue.put(1)
    assert queue.get() == 1


@pytest.mark.parametrize("kind", ALL)
def test_a_closed_queue(kind):
    queue = kind()
    queue.put(1)
    queue.close()
    uses = [lambda: queue.put(2), queue.get, lambda: queue.put_nowait(2), queue.get_nowait, queue.qsize,
            queue.full, lambda: queue.put_many([1]), lambda: queue.get_many(1), lambda: queue.get(False)]
    for use in uses:
        with pytest.raises(ValueError, match="closed"):
            use()
    queue.close()
    queue.join_thread()
    queue.cancel_join_thread()


def test_empty_of_a_closed_queue():
    unused, used, simple = Queue(), Queue(), snp.SimpleQueue()
    used.put(1)
    for queue in (unused, used, simple):
        queue.close()
    # As multiprocessing's.
    assert unused.empty()
    for queue in (used, simple):
        with pytest.raises(OSError, match="is closed"):
            queue.empty()


def test_a_close_ends_the_waits_of_other_threads():
    queue, full = Queue(), snp.JoinableQueue(1)
    full.put(1)
    ended = []

    def expect(use):
        try:
            use()
        except ValueError as error:
            ended.append(str(error))

    threads = [threading.Thread(target=expect, args=(use,), daemon=True) for use in
               (queue.get, lambda: queue.get_many(2), lambda: full.put(2), lambda: full.put_many([2]), full.join)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    queue.close()
    full.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(ended) == 5 and all("closed" in each for each in ended)


# -- threads -------------------------------------------------------------------------


@pytest.mark.parametrize("maxsize", [0, 1, 5])
def test_threads_lose_nothing_and_keep_the_order(maxsize):
    queue = Queue(maxsize)
    got = [[] for _ in range(4)]

    def produce(name):
        for number in range(200):
            queue.put((name, number))
            assert queue.qsize() <= (maxsize or 800)

    def consume(mine):
        while True:
            item = queue.get(timeout=PATIENCE_S)
            if item is None:
                return
            mine.append(item)

    producers = [threading.Thread(target=produce, args=(name,)) for name in range(4)]
    consumers = [threading.Thread(target=consume, args=(mine,)) for mine in got]
    for thread in producers + consumers:
        thread.start()
    for thread in producers:
        thread.join()
    for _ in consumers:
        queue.put(None)
    for thread in consumers:
        thread.join()
    assert queue.empty()
    assert sorted(item for mine in got for item in mine) == [(name, number) for name in range(4) for number in range(200)]
    for mine in got:
        for name in range(4):
            numbers = [number for each, number in mine if each == name]
            assert numbers == sorted(numbers)


def test_it_stays_while_a_thread_waits():
    queue = Queue()
    got = []
    other = ForkingPickler.loads(ForkingPickler.dumps(queue))
    thread = threading.Thread(target=lambda it: got.append(it.get(timeout=PATIENCE_S)), args=(queue,))
    thread.start()
    del queue
    gc.collect()
    other.put(1)
    thread.join()
    assert got == [1]


# -- done ----------------------------------------------------------------------------


def test_done():
    queue = snp.JoinableQueue(4)
    assert queue.join() is True
    with pytest.raises(ValueError, match="task_done"):
        queue.task_done()
    queue.put_many([1, 2, 3])
    assert queue.join(0) is False and queue.join(0.01) is False and queue.join(timeout=-1) is False
    assert queue.get_many(3) == [1, 2, 3]
    assert queue.join(0) is False
    for _ in range(3):
        queue.task_done()
    assert queue.join(0) is True and queue.join() is True
    with pytest.raises(ValueError):
        queue.task_done()
    queue.put(1)
    with pytest.raises(Full):
        queue.put_many(range(9), False) and queue.put(1, False)
    assert queue.join(0) is False


def test_done_before_it_is_got():
    # As multiprocessing's: who has put may count as well.
    queue = snp.JoinableQueue()
    queue.put(1)
    queue.task_done()
    assert queue.join(0)
    assert queue.get() == 1


def test_a_join_ends_when_all_is_done():
    queue = snp.JoinableQueue()
    joined = []
    queue.put_many(range(50))
    threads = [threading.Thread(target=lambda: joined.append(queue.join(PATIENCE_S))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        assert not joined
        queue.get()
        queue.task_done()
    for thread in threads:
        thread.join()
    assert joined == [True] * 3
