"""`aput` and `aget`: waiting in an event loop, among its other tasks."""

import asyncio
import gc
import math
import multiprocessing
import os
import threading
from decimal import Decimal
from fractions import Fraction

import pytest

import shared_numpy as snp
from programs import run_python
from queue_watch import PATIENCE_S, kept
from shared_numpy import Queue, _waiting
from shared_numpy.queue import Empty, Full


def run(main):
    """`asyncio.run`, which 3.6 does not have."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main, PATIENCE_S))
    finally:
        loop.close()


def soon(coroutine):
    return asyncio.ensure_future(coroutine)


def test_nothing_to_wait_for():
    async def main():
        queue = Queue(2)
        await queue.aput(1)
        await queue.aput([snp.Lock()])
        assert queue.full()
        assert await queue.aget() == 1
        (lock,) = await queue.aget(timeout=5)
        assert lock.acquire(False)

    run(main())


def test_timeouts():
    async def main():
        queue = Queue(1)
        for timeout in (0, -1, 0.01, 0.12):
            with pytest.raises(Empty):
                await queue.aget(timeout)
        await queue.aput(1)
        for timeout in (0, -1, 0.01, 0.12):
            with pytest.raises(Full):
                await queue.aput(2, timeout)
        assert queue.get_many(5) == [1]

    run(main())


def test_numbers_of_any_type_are_timeouts():
    async def main():
        queue = Queue(1)
        for timeout in (Fraction(1, 100), Decimal("0.01"), True * 0.01):
            with pytest.raises(Empty):
                await queue.aget(timeout)

    run(main())


@pytest.mark.parametrize("timeout, error", [(math.nan, ValueError), (Decimal("nan"), ValueError), ("1", TypeError)])
def test_what_is_no_timeout(timeout, error):
    async def main():
        queue = Queue(1)
        for number in range(2):  # one has to wait, the other has not
            with pytest.raises(error):
                await asyncio.wait_for(queue.aget(timeout), 10)
            with pytest.raises(error):
                await asyncio.wait_for(queue.aput(2, timeout), 10)
            assert queue.qsize() == number
            if not number:
                queue.put(1)

    run(main())


def test_errors():
    async def main():
        queue = Queue()
        before = kept()
        with pytest.raises((AttributeError, TypeError, ValueError)):
            await queue.aput([snp.Lock(), 1j.conjugate, lambda: None])
        assert kept() == before and queue.empty()
        queue.close()
        for use in (queue.aget, queue.aget, lambda: queue.aput(1)):
            with pytest.raises(ValueError, match="closed"):
                await use()

    run(main())


@pytest.mark.parametrize("maxsize", [0, 1, 5])
def test_many_tasks(maxsize):
    async def produce(queue, name):
        for number in range(20):
            await queue.aput((name, number))

    async def consume(queue, got):
        while True:
            item = await queue.aget()
            if item is None:
                return
            got.append(item)

    async def main():
        queue, got = Queue(maxsize), []
        consumers = [soon(consume(queue, got)) for _ in range(20)]
        await asyncio.sleep(0.05)
        await asyncio.gather(*[produce(queue, name) for name in range(20)])
        for _ in consumers:
            await queue.aput(None)
        await asyncio.gather(*consumers)
        assert sorted(got) == [(name, number) for name in range(20) for number in range(20)]
        for name in range(20):
            numbers = [number for each, number in got if each == name]
            assert numbers == sorted(numbers)
        assert queue.empty()

    run(main())


def test_other_tasks_run_meanwhile():
    async def main():
        queue, turns = Queue(), []

        async def tick():
            while len(turns) < 10:
                turns.append(1)
                await asyncio.sleep(0.01)
            queue.put("ticked")

        ticking = soon(tick())
        assert await queue.aget() == "ticked" and len(turns) == 10
        await ticking

    run(main())


def serve(requests, replies):
    async def one():
        while True:
            item = await requests.aget()
            if item is None:
                await requests.aput(None)
                return
            await replies.aput(item * 2)

    async def main():
        await asyncio.gather(*[one() for _ in range(5)])

    run(main())


def test_several_processes(context):
    requests, replies = Queue(3), Queue(3)
    processes = [context.Process(target=serve, args=(requests, replies)) for _ in range(2)]
    for process in processes:
        process.start()

    async def main():
        async def ask():
            for number in range(200):
                await requests.aput(number)

        asking = soon(ask())
        got = [await replies.aget() for _ in range(200)]
        await asking
        assert sorted(got) == list(range(0, 400, 2))
        await requests.aput(None)

    run(main())
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0


def test_cancelled():
    """What is cancelled takes nothing with it and is in nobody's way."""
    async def main():
        queue = Queue()
        waiting = [soon(queue.aget()) for _ in range(10)]
        await asyncio.sleep(0.1)
        for task in waiting[:9]:
            task.cancel()
        queue.put(1)
        assert await waiting[9] == 1
        await asyncio.gather(*waiting, return_exceptions=True)
        assert all(task.cancelled() for task in waiting[:9])

        # Cancelled in the same turn as something comes.
        for number in range(100):
            task = soon(queue.aget())
            await asyncio.sleep(0)
            queue.put(number)
            if number % 3:
                await asyncio.sleep(0)
            task.cancel()
            got = (await asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(got, int):
                got = queue.get(timeout=PATIENCE_S)
            assert got == number
        assert queue.empty()
        assert waiters(asyncio.get_event_loop()) == 0

    run(main())


def waiters(loop):
    from shared_numpy import _waiting
    return len(_waiting._bells[loop]._waiters)


class Likeness(Queue):
    """Equal to others of its class, and so without a hash."""

    def __eq__(self, other):
        return isinstance(other, Likeness)


def test_a_ring_for_a_loop_that_does_not_wait_any_more_goes_on(monkeypatch):
    monkeypatch.setattr(_waiting, "SLICE_S", 10 * PATIENCE_S)
    queue, other = Likeness(), Likeness()

    async def idle():
        # Asks to be rung, gives up, and its loop waits for something else.
        with pytest.raises(Empty):
            await queue.aget(0.01)
        waiter = soon(other.aget())
        await asyncio.sleep(0.1)
        asked.set()
        await waiter

    async def main():
        waiter = soon(queue.aget())
        await asyncio.sleep(0.1)
        queue.put("item")
        return await waiter

    asked = threading.Event()
    thread = threading.Thread(target=run, args=(idle(),))
    thread.start()
    try:
        assert asked.wait(PATIENCE_S)
        assert run(main()) == "item"
    finally:
        other.put("end")
        thread.join()


def test_cancelled_puts_keep_nothing():
    async def cancel(queue):
        tasks = [soon(queue.aput([snp.Lock(), "x" * 100000])) for _ in range(5)]
        await asyncio.sleep(0.15)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def main():
        queue = Queue(1)
        queue.put("full")
        before = kept()
        # By itself: cancelled tasks refer to what was to be put.
        await cancel(queue)
        await asyncio.sleep(0)
        assert kept() == before
        assert queue.get() == "full" and queue.empty()

    run(main())


def test_one_loop_after_the_other():
    """A loop's socket goes with the loop."""
    queue = Queue()

    async def main():
        task = soon(queue.aget())
        await asyncio.sleep(0.01)
        queue.put(1)
        assert await task == 1

    run(main())
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):  # more than a queue has bells
        run(main())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_loop_that_goes_while_something_waits():
    queue = Queue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(queue.aget())
    loop.run_until_complete(asyncio.sleep(0.1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()

    async def main():
        other = soon(queue.aget())
        await asyncio.sleep(0.01)
        queue.put(2)
        return await other

    assert run(main()) == 2


def test_a_put_after_a_waiter_was_forgotten_with_its_loop():
    queue = Queue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(queue.aget())
    loop.run_until_complete(asyncio.sleep(0.1))
    task._log_destroy_pending = False
    loop.close()
    del task, loop
    gc.collect()
    queue.put(1)
    assert queue.get(timeout=PATIENCE_S) == 1


def test_a_fork_while_a_loop_waits():
    queue, back = Queue(), Queue()

    def child():
        async def main():
            return await queue.aget()

        back.put(("child", run(main())))

    async def main():
        waiting = soon(queue.aget())
        await asyncio.sleep(0.05)
        process = multiprocessing.get_context("fork").Process(target=in_new_thread, args=(child,))
        process.start()
        queue.put(1)
        queue.put(2)
        first = await waiting
        name, second = await back.aget()
        assert sorted([first, second]) == [1, 2] and name == "child"
        process.join(PATIENCE_S)
        assert process.exitcode == 0

    run(main())


def in_new_thread(work):
    # The thread that forked has a loop which runs.
    import threading
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_a_close_while_a_task_waits():
    async def main():
        queue, full = Queue(), Queue(1)
        full.put(1)
        tasks = [soon(queue.aget()), soon(full.aput(2))]
        await asyncio.sleep(0.02)
        queue.close()
        full.close()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, ValueError) and "closed" in str(error)

    run(main())


def test_what_waits_for_room_is_pickled_when_there_is_some():
    class Counts:
        count = 0

        def __reduce__(self):
            Counts.count += 1
            return int, ()

    async def main():
        queue = Queue(1)
        queue.put(1)
        task = soon(queue.aput(Counts()))
        await asyncio.sleep(0.5)
        first = Counts.count
        assert queue.get() == 1
        await task
        assert first <= 2, "it is not pickled again and again in vain"
        assert queue.get() == 0

    run(main())


def test_a_program_that_waits_does_not_import_asyncio_before():
    code, out, err = run_python("""
        import sys
        import shared_numpy as snp
        queue = snp.Queue()
        queue.put(1)
        queue.get()
        print([name for name in ("asyncio", "numpy") if name in sys.modules])
    """)
    assert (code, out.strip(), err) == (0, "[]", "")
