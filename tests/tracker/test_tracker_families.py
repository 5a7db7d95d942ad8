"""The tracker together with `multiprocessing`, under each start method: one for semaphores and segments of a whole family."""

import os
import re
import signal
import time

import pytest

from shared_numpy import _core, _tracker
from shared_numpy.shared_memory import SharedMemory
from programs import METHODS, shm_exists
from strangers import INSTALL, LEAKED, run, start, wait_until_gone

FAMILY = """
    import multiprocessing as mp
    import os
    import signal
    import sys
    import time
    {install}

    def work(lock, queue):
        from multiprocessing.shared_memory import SharedMemory
        from multiprocessing import resource_tracker
        made = SharedMemory(create=True, size=10)
        made.close()
        queue.put((made.name, resource_tracker._resource_tracker._check_alive()))
        if sys.argv[2] == "killed":
            time.sleep(60)

    if __name__ == "__main__":
        context = mp.get_context(sys.argv[1])
        # A name that nobody unlinks at once, as under fork.
        lock = mp.get_context("spawn").Lock() if sys.argv[1] == "fork" else context.Lock()
        semaphore = lock._semlock.name
        from multiprocessing.shared_memory import SharedMemory
        segment = SharedMemory(create=True, size=10)
        queue = context.Queue()
        process = context.Process(target=work, args=(lock, queue))
        process.start()
        name, alive = queue.get()
        assert alive
        print(segment.name, name, "sem." + semaphore.lstrip("/"), process.pid, flush=True)
        if sys.argv[2] == "killed":
            time.sleep(60)
        process.join()
        for made in (segment, SharedMemory(name)):
            made.close()
            made.unlink()
""".format(install=INSTALL)


@pytest.mark.parametrize("method", METHODS)
def test_one_tracker_for_semaphores_and_segments(tmp_path, method):
    code, out, err = run(tmp_path, FAMILY, method, "correct")
    assert (code, err) == (0, "")
    for name in out.split()[:3]:
        assert not shm_exists(name)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_family_leaves_neither(tmp_path, method):
    process = start(tmp_path, FAMILY, method, "killed")
    line = process.stdout.readline().split()
    names, child = line[:3], int(line[3])
    assert all(shm_exists(name) for name in names)
    process.kill()
    # As long as a child lives, its parent's resources do.
    time.sleep(0.3)
    assert all(shm_exists(name) for name in names)
    os.kill(child, signal.SIGKILL)
    err = process.communicate(timeout=60)[1]
    wait_until_gone(*names)
    assert LEAKED.format(2, "shared_memory") in err
    # The queue's own semaphores are among them where they have names.
    assert re.search(r"There appear to be \d+ leaked semaphore objects", err)
    assert "Traceback" not in err


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_may_end_before_what_it_made(tmp_path, method):
    """Without `install`, as `from shared_numpy import shared_memory` has it."""
    assert run(tmp_path, """
        import multiprocessing as mp
        import sys
        from shared_numpy.shared_memory import SharedMemory

        def work(queue):
            made = SharedMemory(create=True, size=10)
            made.buf[0] = 7
            queue.put(made.name)
            made.close()

        if __name__ == "__main__":
            context = mp.get_context(sys.argv[1])
            queue = context.SimpleQueue()
            for _ in range(2):
                process = context.Process(target=work, args=(queue,))
                process.start()
                process.join()
                made = SharedMemory(queue.get())
                assert made.buf[0] == 7
                made.close()
                made.unlink()
    """, method) == (0, "", "")


def test_the_way_that_everything_takes_is_short():
    """No news, nothing built: the calls return None from the client at once."""
    _tracker.ensure_running()
    assert _core.tracker.register("shared_memory", "/shared_numpy_hot", 0, 0, True) is None
    assert _core.tracker.unregister("shared_memory", "/shared_numpy_hot") is None
    assert _core.tracker.gone("shared_memory", "/shared_numpy_hot", 0, 0) is None


def test_unlinking_needs_no_tracker_and_does_not_prevent_one(tmp_path):
    made = SharedMemory(create=True, size=10)
    code, out, err = run(tmp_path, """
        import sys
        from shared_numpy import resource_tracker
        from shared_numpy.shared_memory import SharedMemory
        other = SharedMemory(sys.argv[1])
        other.close()
        other.unlink()
        assert resource_tracker._resource_tracker._pid is None
        SharedMemory(create=True, size=10)
        assert resource_tracker._resource_tracker._pid is not None
    """, made.name)
    assert (code, out) == (0, "")
    assert LEAKED.format(1, "shared_memory") in err
    assert "UserWarning: resource_tracker: There" in err and err.count("UserWarning") == 1
    made.close()
    with pytest.raises(FileNotFoundError):
        made.unlink()


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_only_attached_keeps_its_programs_names(tmp_path, method):
    process = start(tmp_path, """
        import multiprocessing, os, sys, time
        from shared_numpy.shared_memory import SharedMemory

        def work(name):
            shm = SharedMemory(name)
            print(name, os.getpid(), flush=True)
            sys.stdout.close()
            sys.stderr.close()
            os.close(1)
            os.close(2)
            time.sleep(60)

        if __name__ == "__main__":
            shm = SharedMemory(create=True, size=1)
            child = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=(shm.name,))
            child.start()
            time.sleep(60)
    """, method)
    name, child = process.stdout.readline().split()
    try:
        process.kill()
        process.wait()
        time.sleep(0.5)
        assert shm_exists(name)
    finally:
        os.kill(int(child), signal.SIGKILL)
    wait_until_gone(name)
    process.communicate(timeout=60)


def test_a_daemon_does_not_hold_up_who_reads_its_stderr(tmp_path):
    status, out, err = run(tmp_path, """
        import os, time
        from shared_numpy.shared_memory import SharedMemory
        shm = SharedMemory(create=True, size=1)
        print(shm.name, flush=True)
        if os.fork():
            os._exit(0)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(0, 100)
        deadline = time.monotonic() + 30
        while os.path.exists("/dev/shm/" + shm.name) and time.monotonic() < deadline:
            time.sleep(0.01)
    """)
    name = out.strip()
    assert (status, err) == (0, "")
    assert shm_exists(name)
    os.unlink("/dev/shm/" + name)
