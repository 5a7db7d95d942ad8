"""Queues between processes: what arrives, in which order, and who gets it."""

import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from array_samples import memory_of  # noqa: E402
from programs import needs_tracker, run  # noqa: E402
from queue_watch import PATIENCE_S  # noqa: E402
from shared_numpy import Queue  # noqa: E402
from shared_numpy.queue import Full  # noqa: E402


class Frame:
    def __init__(self, pixels, number):
        self.pixels = pixels
        self.number = number


def produce(queue, count):
    for number in range(count):
        a = snp.full((100, 50), number, dtype="f4")
        queue.put(a)
        a.close()


def produce_and_exit(queue):
    a = snp.array(np.arange(10.0))
    queue.put({"view": a[::-2], "list": [a, a.T], "frame": Frame(a[3:], 7)})
    del a


def produce_and_die(queue):
    queue.put(snp.array([1, 2, 3]))
    queue.close()
    queue.join_thread()
    os._exit(3)


def echo(queue, back):
    while True:
        item = queue.get()
        if item is None:
            break
        item += 1
        back.put(item)


def received(queue):
    return queue.get(timeout=60)


@needs_tracker
def test_the_example_of_the_originals(context):
    queue = Queue()
    process = context.Process(target=produce, args=(queue, 5))
    process.start()
    for number in range(5):
        a = received(queue)
        assert type(a) is snp.SharedNDArray and a.dtype == "f4" and (a == number).all()
        a.close()
        a.unlink()
        a.unlink()
        a.close()
    process.join(60)
    assert process.exitcode == 0


@needs_tracker
def test_nested_and_the_producer_is_gone(context):
    queue = Queue()
    process = context.Process(target=produce_and_exit, args=(queue,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    time.sleep(0.1)  # whatever would clean up too early shall have its chance
    got = received(queue)
    assert got["view"].tolist() == [9, 7, 5, 3, 1]
    assert [type(item) for item in got["list"]] == [snp.SharedNDArray] * 2
    assert got["frame"].number == 7
    got["list"][0][9] = 90
    assert got["view"][0] == got["frame"].pixels[-1] == got["list"][1][9] == 90
    assert len({memory_of(item) for item in (got["view"], *got["list"], got["frame"].pixels)}) == 1
    got["view"].unlink()


@needs_tracker
def test_a_producer_that_dies_loses_nothing_that_left_it(context):
    queue = Queue()
    process = context.Process(target=produce_and_die, args=(queue,))
    process.start()
    process.join(60)
    assert process.exitcode != 0
    a = received(queue)
    assert a.tolist() == [1, 2, 3]
    a.unlink()


def add_own(source, target):
    arrays = source.get(timeout=PATIENCE_S)
    target.put([*arrays, snp.array([len(arrays)] * 5)])


@needs_tracker
def test_an_item_with_memory_of_several_who_are_gone(context):
    """Each of them made one of its arrays, and who gets it has met none of them."""
    queues = [Queue() for _ in range(5)]
    queues[0].put([])
    for source, target in zip(queues, queues[1:]):
        process = context.Process(target=add_own, args=(source, target))
        process.start()
        process.join(60)
        assert process.exitcode == 0
    got = received(queues[-1])
    assert [array.tolist() for array in got] == [[number] * 5 for number in range(4)]


def test_there_and_back(context):
    queue, back = Queue(), Queue(3)
    process = context.Process(target=echo, args=(queue, back), daemon=True)
    process.start()
    a = snp.zeros((3, 4), order="F")
    for number in range(1, 6):
        queue.put(a)
        b = received(back)
        assert b.flags.f_contiguous and (b == number).all() and (a == number).all()
    queue.put(None)
    process.join(60)
    assert process.exitcode == 0
    a.unlink()


@needs_tracker
def test_multiprocessings_queue_takes_arrays_too(context):
    queue = context.Queue()
    process = context.Process(target=produce, args=(queue, 3))
    process.start()
    for number in range(3):
        a = received(queue)
        assert type(a) is snp.SharedNDArray and (a == number).all()
        a.unlink()
    process.join(60)
    assert process.exitcode == 0


PROGRAM = """
    import multiprocessing, sys
    import shared_numpy as snp
    from shared_numpy import Queue

    def work(queue):
        # The first shared memory of the whole program is made here.
        queue.put(snp.array([1, 2, 3]))

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        queue = Queue()
        process = context.Process(target=work, args=(queue,))
        process.start()
        process.join()
        a = queue.get(timeout=60)
        print(a.tolist(), type(a).__name__)
"""


@needs_tracker
def test_a_program_whose_parent_never_made_shared_memory(tmp_path, context):
    assert run(tmp_path, PROGRAM, context.get_start_method()).strip() == "[1, 2, 3] SharedNDArray"


# -- order and limits ----------------------------------------------------------------


def number_off(queue, name, count):
    for number in range(count):
        queue.put((name, number, b"x" * (number % 50 * 100)))


def collect(queue, result):
    got = []
    while True:
        item = queue.get(timeout=PATIENCE_S)
        if item is None:
            break
        name, number, data = item
        assert data == b"x" * (number % 50 * 100)
        got.append((name, number))
    result.put(got)


# Without a limit what is put first may lie in a ring of a producer that has ended.
@pytest.mark.parametrize("maxsize", [pytest.param(0, marks=needs_tracker), 3])
def test_several_producers_and_consumers(context, maxsize):
    queue, result = Queue(maxsize), Queue()
    producers = [context.Process(target=number_off, args=(queue, name, 300)) for name in range(3)]
    consumers = [context.Process(target=collect, args=(queue, result)) for _ in range(2)]
    for process in producers + consumers:
        process.start()
    for process in producers:
        process.join(PATIENCE_S)
    queue.put_many([None] * len(consumers), timeout=PATIENCE_S)
    got = [result.get(timeout=PATIENCE_S) for _ in consumers]
    for process in producers + consumers:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    assert sorted(sum(got, [])) == [(name, number) for name in range(3) for number in range(300)]
    for mine in got:
        for name in range(3):
            numbers = [number for each, number in mine if each == name]
            assert numbers == sorted(numbers)
    assert queue.empty() and queue.qsize() == 0


def fill(queue, result):
    count = 0
    try:
        while True:
            queue.put_nowait(count)
            count += 1
    except Full:
        result.put(count)


def test_full_is_exact(context):
    queue, result = Queue(100), Queue()
    processes = [context.Process(target=fill, args=(queue, result)) for _ in range(3)]
    for process in processes:
        process.start()
    assert sum(result.get(timeout=PATIENCE_S) for _ in processes) == 100
    assert queue.full() and queue.qsize() == 100 and len(queue.get_many(1000)) == 100
    for process in processes:
        process.join(PATIENCE_S)


def work_off(queue):
    while queue.get(timeout=PATIENCE_S) is not None:
        queue.task_done()
    queue.task_done()


def test_done_elsewhere(context):
    queue = snp.JoinableQueue()
    queue.put_many(range(100))
    assert not queue.join(0)
    processes = [context.Process(target=work_off, args=(queue,)) for _ in range(2)]
    for process in processes:
        process.start()
    assert queue.join(PATIENCE_S)
    with pytest.raises(ValueError):
        queue.task_done()
    queue.put_many([None, None])
    assert queue.join(PATIENCE_S)
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0


# -- ways for a queue to travel ------------------------------------------------------

KEPT = []


def keep(*queues):
    KEPT[:] = queues


def put_square(number):
    queue, simple = KEPT
    queue.put((number, snp.full(3, number * number)))
    simple.put(number)
    return os.getpid()


def check_squares(queue, simple, count):
    got = dict(queue.get(timeout=PATIENCE_S) for _ in range(count))
    assert sorted(got) == sorted(simple.get(timeout=PATIENCE_S) for _ in range(count)) == list(range(count))
    assert all((a == number * number).all() for number, a in got.items())


def test_pool(context):
    queue, simple = Queue(), snp.SimpleQueue()
    pool = context.Pool(2, keep, (queue, simple))
    try:
        pool.map(put_square, range(20))
        check_squares(queue, simple, 20)
    finally:
        pool.close()
        pool.join()


def pass_on(queue, number):
    queue.put(snp.full(3, number))
    return queue


def test_pool_that_is_sent_a_queue_with_each_task(context):
    pool = context.Pool(2)
    try:
        queue = Queue()
        back = pool.starmap(pass_on, [(queue, number) for number in range(10)])
        assert sorted(int(queue.get(timeout=PATIENCE_S)[0]) for _ in range(10)) == list(range(10))
        back[0].put("the same")
        assert queue.get(timeout=PATIENCE_S) == "the same"
    finally:
        pool.close()
        pool.join()


@pytest.mark.skipif(sys.version_info < (3, 7), reason="mp_context and initializer")
def test_executor(context):
    queue, simple = Queue(), snp.SimpleQueue()
    with ProcessPoolExecutor(2, mp_context=context, initializer=keep, initargs=(queue, simple)) as executor:
        list(executor.map(put_square, range(10)))
        check_squares(queue, simple, 10)
        reply = executor.submit(pass_on, queue, 5).result(PATIENCE_S)
        assert queue.get(timeout=PATIENCE_S).tolist() == [5, 5, 5]
        reply.put(1)
        assert queue.get(timeout=PATIENCE_S) == 1


def put_through_manager(things):
    things["queue"].put("from the child")


def test_manager(context):
    with context.Manager() as manager:
        things = manager.dict()
        queue = things["queue"] = Queue()
        process = context.Process(target=put_through_manager, args=(things,))
        process.start()
        assert queue.get(timeout=PATIENCE_S) == "from the child"
        process.join(PATIENCE_S)
        assert process.exitcode == 0


def nest(method, depth, queue):
    queue.put(depth)
    if depth:
        process = multiprocessing.get_context(method).Process(target=nest, args=(method, depth - 1, queue))
        process.start()
        process.join(PATIENCE_S)
        queue.put(process.exitcode)


def test_children_of_children(context):
    queue = Queue()
    process = context.Process(target=nest, args=(context.get_start_method(), 2, queue))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    assert queue.get_many(10) == [2, 1, 0, 0, 0]


def answer(requests):
    while True:
        request = requests.get(timeout=PATIENCE_S)
        if request is None:
            return
        array, reply, lock = request
        with lock:
            array += 1
        reply.put(array)


def test_a_reply_queue_in_a_request(context):
    requests = Queue()
    process = context.Process(target=answer, args=(requests,))
    process.start()
    lock = snp.Lock()
    for number in range(10):
        reply = Queue(1)
        a = snp.full(3, number)
        requests.put((a, reply, lock))
        assert reply.get(timeout=PATIENCE_S).tolist() == [number + 1] * 3 == a.tolist()
    requests.put(None)
    process.join(PATIENCE_S)
    assert process.exitcode == 0


@needs_tracker  # the child may end before what it has put is received
def test_a_fork_while_threads_use_the_queue():
    """A child that is forked at whatever moment can use it, and disturbs nobody."""
    queue, back = Queue(4), Queue()
    stop = []
    # What is imported at first use is imported: a child that is forked during an import waits for its lock.
    queue.put(snp.ones(3))
    queue.get()

    def produce():
        while not stop:
            queue.put(snp.ones(3), timeout=PATIENCE_S)

    def consume():
        while queue.get(timeout=PATIENCE_S) is not None:
            pass

    threads = [threading.Thread(target=each) for each in (produce, consume)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    for number in range(10):
        process = context.Process(target=give_back, args=(queue, back, number))
        process.start()
        assert back.get(timeout=PATIENCE_S) == number
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    stop.append(True)
    threads[0].join()
    queue.put(None)
    threads[1].join()


def give_back(queue, back, number):
    queue.put(snp.zeros(2), timeout=PATIENCE_S)
    back.put(number)
