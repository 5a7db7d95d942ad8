"""The interpreter ends while daemon threads wait in locks and their kin, queues and channels: a good and silent end.

CPython before 3.14 ends a thread that wants the interpreter back then by unwinding its stack, ours included.
"""

import pytest

pytest.importorskip("numpy")

from programs import run

# What is waited for, how it is made, and how the wait is ended.
WAITS = {
    "Lock": ("snp.Lock()", "it.acquire(timeout={})", "it.release()"),
    "Lock, with": ("snp.Lock()", "with it: pass", "it.release()"),
    "RLock": ("snp.RLock()", "it.acquire(True, {})", None),
    "Semaphore": ("snp.Semaphore(0)", "it.acquire(timeout={})", "it.release()"),
    "BoundedSemaphore": ("snp.BoundedSemaphore(1)", "it.acquire(timeout={})", "it.release()"),
    "Event": ("snp.Event()", "it.wait({})", "it.set()"),
    "Condition": ("snp.Condition()", "it.acquire(); entered.set(); it.wait({})", "it.acquire(); it.notify()"),
    "Condition, its lock": ("snp.Condition()", "it.acquire(timeout={})", None),
    "Condition, wait_for": ("snp.Condition()", "it.acquire(); entered.set(); it.wait_for(list, {})", None),
    "Barrier": ("snp.Barrier(2)", "it.wait({})", "it.abort()"),
    "Latest": ("snp.Latest(3)", "it.read_next({})", None),
    "Latest, iteration": ("snp.Latest(3)", "list(it)", None),
    "Queue": ("snp.Queue()", "it.get(timeout={})", "it.put(1)"),
    "SimpleQueue": ("snp.SimpleQueue()", "it.get()", "it.put(1)"),
    "JoinableQueue": ("snp.JoinableQueue()", "it.join({})", None),
}
# What the main thread does first, so that there is something to wait for.
BEFORE = {"Lock": "it.acquire()", "Lock, with": "it.acquire()", "RLock": "it.acquire()", "BoundedSemaphore": "it.acquire()",
          "Condition, its lock": "it.acquire()", "JoinableQueue": "it.put(1)"}


def program(name, timeout, is_ended):
    make, wait, end = WAITS[name]
    return """
        import builtins, threading, time
        import shared_numpy as snp

        it, entered = {make}, threading.Event()
        {before}

        def work(it, entered):
            if {announces}:
                entered.set()
            try:
                {wait}
            except (snp.synchronize.BrokenBarrierError, EOFError):
                pass

        class Last:
            # Outlives the moment from which on other threads may not go on.
            sleep, it = staticmethod(time.sleep), it

            def end(self, it):
                {end}

            def __del__(self):
                self.sleep(0.1)
                self.end(self.it)
                self.sleep(0.1)

        builtins.last = Last()
        for _ in range(2):
            threading.Thread(target=work, args=(it, entered), daemon=True).start()
        entered.wait()
        time.sleep(0.1)
    """.format(make=make, before=BEFORE.get(name, ""), announces="entered.set" not in wait,
               wait=wait.format(timeout), end=end if is_ended else "pass")


@pytest.mark.parametrize("name", sorted(WAITS))
@pytest.mark.parametrize("timeout", [None, 60])
def test_threads_that_wait(tmp_path, name, timeout):
    assert run(tmp_path, program(name, timeout, False)) == ""


@pytest.mark.parametrize("name", sorted(name for name in WAITS if WAITS[name][2]))
def test_threads_whose_wait_ends_meanwhile(tmp_path, name):
    assert run(tmp_path, program(name, None, True)) == ""
