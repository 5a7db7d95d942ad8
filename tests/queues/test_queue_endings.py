"""How queues end: exits, deaths, threads that wait when the interpreter goes, no NumPy."""

import pytest

from programs import needs_tracker, run

START = """
    import multiprocessing, os, signal, sys, threading, time
    import shared_numpy as snp
    context = multiprocessing.get_context(sys.argv[1] if len(sys.argv) > 1 else "fork")
    wait = threading.Event()
"""


@pytest.mark.parametrize("wait", ["queue.get()", "full.put(1)", "full.put_many([1])", "queue.get_many(5)", "full.join()"])
@pytest.mark.parametrize("end", ["pass", "del queue, full", "sys.exit(0)"])
def test_a_thread_that_waits_when_the_program_ends(tmp_path, wait, end):
    assert run(tmp_path, START + """
    queue, full = snp.Queue(), snp.JoinableQueue(1)
    full.put(1)
    def work(queue, full):
        wait.set()
        {}
    threading.Thread(target=work, args=(queue, full), daemon=True).start()
    wait.wait()
    time.sleep(0.1)
    {}
    """.format(wait, end)) == ""


@needs_tracker
def test_a_producer_that_exits_right_after_its_put(tmp_path, context):
    assert run(tmp_path, START + """
    def work(queue):
        queue.put_many(["x" * 1000000, b"last"])
        os._exit(0)
    if __name__ == "__main__":
        queue = snp.Queue()
        process = context.Process(target=work, args=(queue,))
        process.start()
        process.join()
        text, last = queue.get_many(5)
        print(len(text), last)
    """, context.get_start_method()) == "1000000 b'last'\n"


def test_a_child_that_ended_did_not_die(tmp_path, context):
    assert run(tmp_path, START + """
    from queue import Empty
    def work(queue, how):
        queue.put(1)
        if how == "exit":
            sys.exit(3)
    if __name__ == "__main__":
        for how in ("return", "exit"):
            queue = snp.Queue()
            process = context.Process(target=work, args=(queue, how))
            process.start()
            process.join()
            queue.get()
            try:
                queue.get(timeout=1)
            except Empty:
                print(how)
    """, context.get_start_method()) == "return\nexit\n"


def test_the_last_peer_was_killed(tmp_path, context):
    assert run(tmp_path, START + """
    def work(queue, full):
        full.put(1)
        queue.put("ready")
        time.sleep(100)
    if __name__ == "__main__":
        queue, full = snp.Queue(), snp.JoinableQueue(1)
        process = context.Process(target=work, args=(queue, full))
        process.start()
        queue.get(timeout=60)
        os.kill(process.pid, signal.SIGKILL)
        for use in (queue.get, lambda: full.put(2), full.join, lambda: queue.get_many(3)):
            try:
                use()
            except snp.PeerDied:
                print("died")
        import asyncio
        loop = asyncio.new_event_loop()
        for use in (queue.aget, lambda: full.aput(2)):
            try:
                loop.run_until_complete(use())
            except snp.PeerDied:
                print("died")
        # What is there is got, and both go on.
        print(full.get(), queue.put(5), queue.get())
        process.join()
    """, context.get_start_method()) == "died\n" * 6 + "1 None 5\n"


def test_a_thread_that_waits_for_the_dead_is_told_whatever_others_do(tmp_path, context):
    assert run(tmp_path, START + """
    def work(queue):
        queue.put("ready")
        time.sleep(100)
    def consume(queue):
        try:
            queue.get()
        except snp.PeerDied:
            print("died")
    if __name__ == "__main__":
        queue = snp.Queue()
        process = context.Process(target=work, args=(queue,))
        process.start()
        queue.get(timeout=60)
        threads = [threading.Thread(target=consume, args=(queue,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        os.kill(process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
        process.join()
    """, context.get_start_method()) == "died\n" * 2


def test_who_has_closed_a_queue_can_still_wait_until_all_is_done(tmp_path, context):
    assert run(tmp_path, START + """
    def work(queue):
        item = queue.get()
        queue.close()
        print(item, flush=True)
        queue.task_done()
    if __name__ == "__main__":
        queue = snp.JoinableQueue()
        queue.put("item")
        process = context.Process(target=work, args=(queue,))
        process.start()
        queue.close()
        print(queue.join(60))
        try:
            queue.task_done()
        except ValueError as error:
            print(error)
        process.join()
        print(process.exitcode)
    """, context.get_start_method()) == "item\nTrue\ntask_done() called too many times\n0\n"


@pytest.mark.parametrize("attributes", [
    "_args=argparse.Namespace(verbose=True)", "_kwargs=argparse.Namespace(verbose=True)", "_args=None, _kwargs=[1]",
    "_args=7, _kwargs='text'", "first=Sulky()"])
def test_a_process_that_calls_other_things_args(tmp_path, attributes):
    assert run(tmp_path, START + """
    import argparse

    class Sulky:
        @property
        def __class__(self):
            raise RuntimeError("not now")

    class Worker(multiprocessing.get_context("fork").Process):
        def __init__(self, end, queue):
            super().__init__()
            self.__dict__.update(%s)
            self.end, self.queue = end, queue
        def run(self):
            self.end.send("ready")
            time.sleep(100)

    queue = snp.Queue()
    mine, its = multiprocessing.Pipe()
    process = Worker(its, queue)
    process.start()
    mine.recv()
    os.kill(process.pid, signal.SIGKILL)
    try:
        queue.get(timeout=30)
    except snp.PeerDied:
        print("died")
    process.join()
    """ % attributes) == "died\n"


@needs_tracker
def test_what_a_producer_leaves_outlives_it(tmp_path, context):
    """Locks and queues too, which expire in other pickles when their sender has ended."""
    assert run(tmp_path, START + """
    os.environ["SHARED_NUMPY_INFLIGHT_S"] = "0"
    def work(queue):
        reply = snp.Queue()
        reply.put("inside")
        queue.put([reply, snp.Lock(), snp.ones(3)])
    if __name__ == "__main__":
        queue = snp.Queue()
        process = context.Process(target=work, args=(queue,))
        process.start()
        process.join()
        time.sleep(2)
        snp.trim(in_flight=True)
        reply, lock, a = queue.get(timeout=60)
        print(reply.get(timeout=60), lock.acquire(), a.sum())
    """, context.get_start_method()) == "inside True 3.0\n"


def test_a_close_in_one_process_is_nothing_to_others(tmp_path, context):
    assert run(tmp_path, START + """
    def work(queue, back):
        back.put("ready")
        print(queue.get(), flush=True)
        queue.close()
        back.put("closed")
    if __name__ == "__main__":
        queue, back = snp.Queue(), snp.Queue()
        process = context.Process(target=work, args=(queue, back))
        process.start()
        back.get()
        queue.put(1)
        back.get()
        queue.put(2)
        print(queue.get())
        process.join()
    """, context.get_start_method()) == "1\n2\n"


def test_an_exit_with_things_in_the_queue(tmp_path, context):
    assert run(tmp_path, START + """
    def work(queue):
        queue.put_many([b"x" * 100000] * 100)
    if __name__ == "__main__":
        queue = snp.Queue()
        process = context.Process(target=work, args=(queue,))
        process.start()
        process.join()
        print(queue.qsize())
    """, context.get_start_method()) == "100\n"


def test_no_program_imports_numpy_for_a_queue(tmp_path, context):
    assert run(tmp_path, START + """
    def loaded():
        return sorted({"numpy", "asyncio"} & set(sys.modules))
    def work(queue, back, lock):
        with lock:
            item = queue.get()
        back.put((item, loaded()))
        item = queue.get()
        back.put((type(item).__name__, item.tolist(), "numpy" in sys.modules))
    if __name__ == "__main__":
        queue, back, lock = snp.Queue(), snp.SimpleQueue(), snp.Lock()
        process = context.Process(target=work, args=(queue, back, lock))
        process.start()
        queue.put({"a": [1, "x" * 100000, b"x" * 100000]})
        item, modules = back.get()
        print(len(item["a"]), modules, loaded())
        # The first array that the child sees comes out of a queue.
        queue.put(snp.ones(3))
        print(back.get())
        process.join()
    """, context.get_start_method()) == "3 [] []\n('SharedNDArray', [1.0, 1.0, 1.0], True)\n"
