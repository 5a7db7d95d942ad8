"""Queues whose objects do what nobody expects while they are pickled and unpickled, and an exit in the middle."""

import subprocess
import sys
import textwrap

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy import Queue  # noqa: E402
from array_samples import exists, name_of  # noqa: E402


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


def run_program(tmp_path, program, *arguments):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    done = subprocess.Popen([sys.executable, str(script)] + list(arguments),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    out, err = done.communicate(timeout=100)
    return done.returncode, out, err


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
