"""`Queue`: the interface of multiprocessing's, arrays by handle, errors in the caller."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from multiprocessing.reduction import ForkingPickler
from queue import Empty, Full

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import Queue, _core  # noqa: E402
from array_samples import exists, memory_of, name_of, same  # noqa: E402


UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)


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


# -- in one process -------------------------------------------------------------------


def test_it_is_a_class():
    queue = Queue()
    assert isinstance(Queue, type) and isinstance(queue, Queue)
    queue.close()
    queue.join_thread()


def test_interface():
    queue = Queue(2)
    assert queue.empty() and not queue.full() and queue.qsize() == 0
    queue.put(1)
    queue.put_nowait("two")
    assert queue.full() and queue.qsize() == 2
    with pytest.raises(Full):
        queue.put_nowait(3)
    with pytest.raises(Full):
        queue.put(3, True, 0.01)
    assert received(queue) == 1 and queue.get(True, 60) == "two"
    with pytest.raises(Empty):
        queue.get_nowait()
    with pytest.raises(Empty):
        queue.get(timeout=0.01)
    assert queue.empty()
    queue.put(None, block=False)
    assert received(queue) is None
    queue.cancel_join_thread()
    queue.close()
    with pytest.raises((ValueError, AssertionError)):
        queue.put(1)


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


def test_what_cannot_be_pickled_raises_in_put(capfd):
    queue = Queue(1)
    a = snp.array([1, 2])
    name = name_of(a)
    with pytest.raises(UNPICKLABLE):
        queue.put([a, lambda: None])
    queue.put("still usable")
    assert received(queue) == "still usable"
    del a
    assert not exists(name)
    queue.close()
    queue.join_thread()
    assert capfd.readouterr().err == ""


def test_what_is_put_is_as_it_was_then():
    queue = Queue()
    items = [1]
    queue.put(items)
    items.append(2)
    assert received(queue) == [1]


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
    assert received(queue) == "full"
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
    assert received(queue) == "full"


def test_ordinary_arrays_arrive_by_value():
    queue = Queue()
    a = np.arange(10).reshape(2, 5).T
    queue.put(a)
    b = received(queue)
    assert type(b) is np.ndarray and same(a, b)


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
        received(queue)
    assert received(queue) == "next"


def test_what_is_in_a_queue_is_not_given_up():
    queue = Queue()
    queue.put(snp.array([1, 2, 3]))
    _core.trim(True)
    assert received(queue).tolist() == [1, 2, 3]


def test_what_was_not_put_keeps_nothing():
    gc.collect()  # queues of earlier tests, which their exceptions hold
    before = snp.stats()["in_use_bytes"]
    queue = Queue(1)
    with pytest.raises(UNPICKLABLE):
        queue.put([snp.array([1, 2, 3]), np.zeros(100000), snp.Lock(), lambda: None])
    queue.put("full")
    with pytest.raises(Full):
        queue.put_nowait([snp.array([1, 2, 3]), np.zeros(100000), snp.Lock()])
    assert snp.stats()["in_flight"] == 0
    queue.close()
    del queue
    gc.collect()
    assert snp.stats()["in_use_bytes"] == before


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


class Moves:
    """Gives an array other memory while it is pickled."""

    def __init__(self, a):
        self.a = a

    def __reduce__(self):
        self.a.resize(1 << 20, refcheck=False)
        return int, ()


def test_an_array_that_moves_while_others_are_pickled_is_refused():
    queue = Queue()
    a, shared = np.arange(1000.0), snp.zeros(10)
    name = name_of(shared)
    with pytest.raises(ValueError, match="other memory"):
        queue.put_many([shared, a, Moves(a)])
    del shared
    assert not exists(name) and queue.empty()
    assert queue.put_many([Moves(a), a]) == 2, "it had moved before"
    assert queue.get_many(2)[1].shape == (1 << 20,)


class Closes:
    """Closes a queue when it is unpickled."""

    queues = []

    def __reduce__(self):
        return self.close, ()

    @classmethod
    def close(cls):
        for queue in cls.queues:
            queue.close()


def test_what_goes_wrong_after_a_batch_does_not_cost_the_batch():
    queue = Queue()
    Closes.queues[:] = [queue]
    queue.put_many([Closes()] + list(range(100)))
    assert queue.get_many(200) == [None] + list(range(63))
    with pytest.raises(ValueError, match="closed"):
        queue.get_many(200)


def test_the_producer_may_drop_the_array():
    queue = Queue()
    for number in range(20):
        queue.put(snp.full(3, number))
    gc.collect()
    for number in range(20):
        a = received(queue)
        assert (a == number).all()
        a.unlink()


# -- between processes ---------------------------------------------------------------


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


def test_a_producer_that_dies_loses_nothing_that_left_it(context):
    queue = Queue()
    process = context.Process(target=produce_and_die, args=(queue,))
    process.start()
    process.join(60)
    assert process.exitcode != 0
    a = received(queue)
    assert a.tolist() == [1, 2, 3]
    a.unlink()


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


def run_program(tmp_path, program, *arguments):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    done = subprocess.Popen([sys.executable, str(script)] + list(arguments),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    out, err = done.communicate(timeout=100)
    return done.returncode, out, err


def test_a_program_whose_parent_never_made_shared_memory(tmp_path, context):
    code, out, err = run_program(tmp_path, PROGRAM, context.get_start_method())
    assert (code, out.strip(), err) == (0, "[1, 2, 3] SharedNDArray", "")


# The first array that a process sees has it import NumPy, here one that never ends to.
FIRST_ARRAY = """
    import builtins, multiprocessing, os, sys, threading, time
    import shared_numpy as snp

    def produce(queue):
        import numpy as np
        queue.put_many([np.arange(3.0)])

    class Last:
        # Outlives the moment from which on other threads may not go on.
        sleep = staticmethod(time.sleep)
        def __del__(self):
            self.sleep(0.2)

    if __name__ == "__main__":
        queue = snp.Queue()
        producer = multiprocessing.get_context("spawn").Process(target=produce, args=(queue,))
        producer.start()
        producer.join()
        assert "numpy" not in sys.modules and queue.qsize() == 1
        os.mkdir(sys.argv[1])
        with open(os.path.join(sys.argv[1], "numpy.py"), "w") as module:
            module.write("import builtins, time\\nbuiltins.entered.set()\\nwhile True: time.sleep(0.01)\\n")
        sys.path.insert(0, sys.argv[1])
        builtins.last = Last()
        builtins.entered = threading.Event()
        threading.Thread(target=queue.get, daemon=True).start()
        assert builtins.entered.wait(60)
"""


def test_an_exit_while_a_thread_gets_the_first_array(tmp_path):
    assert run_program(tmp_path, FIRST_ARRAY, str(tmp_path / "modules")) == (0, "", "")
