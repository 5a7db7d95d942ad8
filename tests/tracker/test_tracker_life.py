"""A tracker's life: replaced when it is killed, deaf to signals, stopped and started anew, derived from."""

import os
import signal
import time

import pytest

from shared_numpy import resource_tracker
from shared_numpy.resource_tracker import ResourceTracker
from programs import shm_exists
from strangers import run


def test_a_killed_tracker_is_replaced_with_one_warning_and_told_again(tmp_path):
    code, out, err = run(tmp_path, """
        import os, signal, warnings
        from shared_numpy import resource_tracker
        from shared_numpy.shared_memory import SharedMemory
        before = SharedMemory(create=True, size=10)
        tracker = resource_tracker._resource_tracker
        first = tracker._pid
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            after = SharedMemory(create=True, size=10)
            after.close()
            after.unlink()
        assert [w.category for w in seen] == [UserWarning], seen
        assert "resource_tracker: process died unexpectedly, relaunching" in str(seen[0].message)
        assert tracker._pid not in (None, first)
        print(before.name)
    """)
    assert code == 0
    assert err.count("leaked shared_memory") == 1
    assert not shm_exists(out.strip())


def test_a_process_is_not_taken_for_dead_while_it_reconnects(tmp_path):
    code, out, err = run(tmp_path, """
        import os, signal, threading, time
        from shared_numpy import resource_tracker
        from shared_numpy.shared_memory import SharedMemory

        def marked():
            with open("/proc/self/maps") as lines:
                return any("shared_numpy." in line for line in lines)

        before = SharedMemory(create=True, size=10)
        assert marked()
        tracker = resource_tracker._resource_tracker._pid
        os.kill(tracker, signal.SIGSTOP)
        os.closerange(3, 1000)
        thread = threading.Thread(target=lambda: SharedMemory(create=True, size=10).unlink())
        thread.start()  # knocks, and is not let in
        time.sleep(0.3)
        there = marked()
        os.kill(tracker, signal.SIGCONT)
        thread.join()
        assert there
        SharedMemory(before.name).close()
        before.unlink()
    """)
    assert (code, out, err) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_programs_do_not_end_it(tmp_path, number):
    assert run(tmp_path, """
        import os, sys, time
        from shared_numpy import resource_tracker
        tracker = resource_tracker._resource_tracker
        tracker.ensure_running()
        pid = tracker._pid
        os.kill(pid, int(sys.argv[1]))
        time.sleep(0.2)
        assert tracker._check_alive()
        resource_tracker.ensure_running()
        assert tracker._pid == pid
    """, str(int(number))) == (0, "", "")


def test_stop_waits_for_the_end_and_a_new_one_can_be_started(tmp_path):
    assert run(tmp_path, """
        import os
        from shared_numpy import resource_tracker
        from shared_numpy.shared_memory import SharedMemory
        tracker = resource_tracker._resource_tracker
        tracker._stop()
        assert tracker._exitcode is None
        pids = set()
        for _ in range(3):
            made = SharedMemory(create=True, size=10)
            pids.add(tracker._pid)
            made.close()
            made.unlink()
            tracker._stop()
            assert tracker._pid is None and tracker._fd is None
            assert tracker._exitcode == 0
            assert "SHARED_NUMPY_TRACKER" not in os.environ
            try:
                os.wait()
            except ChildProcessError:
                pass
            else:
                raise AssertionError("a child was left")
        assert len(pids) == 3
    """) == (0, "", "")


def test_a_separate_tracker_is_independent(capfd):
    shared = resource_tracker._resource_tracker
    shared.ensure_running()
    address = os.environ.get("SHARED_NUMPY_TRACKER")
    for leak in (False, True):
        tracker = ResourceTracker()
        assert tracker._exitcode is None and tracker._pid is None and tracker._fd is None
        tracker.ensure_running()
        assert tracker._check_alive() and tracker._exitcode is None
        assert tracker._pid not in (None, shared._pid)
        tracker.register("somename", "dummy")
        if not leak:
            tracker.unregister("somename", "dummy")
        assert tracker._check_alive()
        tracker._stop()
        assert tracker._exitcode == int(leak)
        assert tracker._pid is None and tracker._fd is None
        tracker._stop()
        # It can be used again.
        tracker.ensure_running()
        assert tracker._exitcode is None
        tracker._stop()
        assert tracker._exitcode == 0
    assert shared._check_alive()
    assert os.environ.get("SHARED_NUMPY_TRACKER") == address
    assert "somename" not in capfd.readouterr().err.replace("resource_tracker: 'somename'", "")


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signal masks")
@pytest.mark.parametrize("blocked", [
    set(), {signal.SIGINT}, {signal.SIGTERM, signal.SIGUSR1}, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}])
def test_the_callers_signal_mask_stays_as_it_was(blocked):
    before = signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    tracker = ResourceTracker()
    try:
        tracker.ensure_running()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked
        tracker._stop()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert tracker._exitcode == 0


def test_a_foreign_descriptor_is_left_alone(tmp_path):
    """`multiprocessing` assigns what the parent had: perhaps a standard tracker's pipe."""
    assert run(tmp_path, """
        import os
        from shared_numpy import resource_tracker
        from shared_numpy.shared_memory import SharedMemory
        tracker = resource_tracker._resource_tracker
        r, w = os.pipe()
        tracker._fd = w
        tracker._fd = None
        os.close(r)
        os.fstat(w)
        tracker._fd = 9999
        made = SharedMemory(create=True, size=10)
        assert tracker._fd not in (None, w)
        own = tracker._fd
        # Its own descriptor again is no news.
        tracker._fd = own
        assert tracker._check_alive()
        os.fstat(w)
        made.close()
        made.unlink()
    """) == (0, "", "")


def test_a_subclass_may_have_a_process_of_its_own():
    """As joblib's loky does: its own process in `_fd` and `_pid`, the text protocol."""
    class Own(ResourceTracker):
        def ensure_running(self):
            with self._lock:
                if self._fd is not None:
                    if self._check_alive():
                        return
                    os.close(self._fd)
                    self._fd = None
                    os.waitpid(self._pid, 0)
                    self._pid = None
                self.received, self._fd = os.pipe()
                self._pid = os.fork()
                if self._pid == 0:
                    os.close(self._fd)
                    while os.read(self.received, 1):
                        pass
                    os._exit(3)

        def maybe_unlink(self, name, rtype):
            self._send("MAYBE_UNLINK", name, rtype)

    own = Own()
    assert own._fd is None and own._pid is None
    own.ensure_running()
    pid = own._pid
    assert pid != resource_tracker._resource_tracker._pid
    os.close(own.received)
    own.register("name", "folder")
    own.maybe_unlink("name", "folder")
    own.unregister("name", "folder")
    assert own._check_alive() and own.getfd() == own._fd
    os.kill(pid, signal.SIGKILL)
    while own._check_alive():
        time.sleep(0.01)
    own.register("name", "folder")
    assert own._pid != pid
    os.close(own.received)
    own._stop()
    assert own._exitcode == 3
    assert own._fd is None and own._pid is None
