"""The Python face of the tracker: what programs and ``multiprocessing`` see of it."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from shared_numpy import _core, _tracker, resource_tracker, semaphore_tracker
from shared_numpy.resource_tracker import ResourceTracker
from shared_numpy.shared_memory import SharedMemory

OLD = sys.version_info < (3, 8)
METHODS = ("fork", "spawn", "forkserver")
INSTALL = "import shared_numpy; shared_numpy.install({})".format("" if OLD else "replace=True")
LEAKED = "resource_tracker: There appear to be {} leaked {} objects to clean up at shutdown"


def environ(**more):
    """The environment of a program that belongs to nobody's tracker."""
    found = {key: value for key, value in os.environ.items() if not key.startswith("SHARED_NUMPY")}
    found.update(more)
    return found


def start(tmp_path, program, *arguments, **options):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    options.setdefault("env", environ())
    return subprocess.Popen(
        [sys.executable, str(path)] + list(arguments), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True, **options)


def run(tmp_path, program, *arguments, **options):
    """Runs a program to its end, and its tracker's: that has stderr until then."""
    process = start(tmp_path, program, *arguments, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def exists(name):
    return os.path.exists("/dev/shm/" + name.lstrip("/"))


def wait_until_gone(*names):
    deadline = time.monotonic() + 30
    while any(exists(name) for name in names):
        assert time.monotonic() < deadline, "still there: {}".format(names)
        time.sleep(0.01)


# -- names and types ----------------------------------------------------------


def test_the_names_that_others_use():
    tracker = resource_tracker._resource_tracker
    assert isinstance(tracker, ResourceTracker)
    for name in ("register", "unregister", "ensure_running", "getfd"):
        assert getattr(resource_tracker, name) == getattr(tracker, name)
        assert callable(getattr(semaphore_tracker, name))
    assert semaphore_tracker.getfd() == resource_tracker.getfd()
    tracker.ensure_running()
    assert tracker._check_alive() is True
    assert tracker._fd == resource_tracker.getfd() >= 3
    assert os.get_inheritable(tracker._fd) is False
    assert semaphore_tracker._semaphore_tracker._pid == tracker._pid
    with tracker._lock:
        pass
    tracker._unknown_attribute = 1
    with pytest.raises(RuntimeError):
        resource_tracker.main(0)


def test_cleanup_functions_are_those_of_the_same_version():
    expected = {"noop", "semaphore", "shared_memory"}
    if sys.version_info >= (3, 13):
        expected.add("dummy")
    assert set(resource_tracker._CLEANUP_FUNCS) == expected
    made = SharedMemory(create=True, size=1)
    clean = resource_tracker._CLEANUP_FUNCS["shared_memory"]
    clean(made._name)
    assert not exists(made._name)
    with pytest.raises(FileNotFoundError):
        clean(made._name)
    with pytest.raises(FileNotFoundError):
        resource_tracker._CLEANUP_FUNCS["semaphore"]("/shared_numpy_no_such_semaphore")
    with pytest.raises(RuntimeError):
        resource_tracker._CLEANUP_FUNCS["noop"]("/x")
    made.close()
    resource_tracker.unregister(made._name, "shared_memory")


@pytest.mark.parametrize("name, rtype", [
    ("", "shared_memory"), ("/a\0b", "shared_memory"), ("/a", "unknown"), ("/a", ""),
    ("a" * (512 - len("shared_memory")), "shared_memory"), ("a" * 300, "semaphore"),
])
def test_what_cannot_be_registered_is_a_value_error(name, rtype):
    with pytest.raises(ValueError):
        resource_tracker.register(name, rtype)


def test_commands_by_name():
    tracker = resource_tracker._resource_tracker
    tracker._send("REGISTER", "/shared_numpy_x", "shared_memory")
    tracker._send("UNREGISTER", "/shared_numpy_x", "shared_memory")
    tracker._send("PROBE", "0", "noop")
    with pytest.raises(RuntimeError):
        tracker._send("EXPLODE", "0", "noop")


# -- what is said at the end, and what is not ---------------------------------


def test_a_correct_program_hears_nothing(tmp_path):
    assert run(tmp_path, """
        from shared_numpy import resource_tracker
        from shared_numpy.shared_memory import SharedMemory
        resource_tracker.ensure_running()
        for _ in range(3):
            made = SharedMemory(create=True, size=10)
            made.close()
            made.unlink()
    """) == (0, "", "")


def test_what_is_left_goes_with_a_warning(tmp_path):
    code, out, err = run(tmp_path, """
        from shared_numpy.shared_memory import SharedMemory
        for _ in range(2):
            print(SharedMemory(create=True, size=10).name)
    """)
    assert code == 0
    names = out.split()
    assert LEAKED.format(2, "shared_memory") in err
    assert not any(exists(name) for name in names)


def test_unregistering_after_an_attach_is_harmless(tmp_path):
    """What much code does against the standard library's habit (bpo-38119)."""
    made = SharedMemory(create=True, size=10)
    program = """
        import sys
        from shared_numpy import resource_tracker
        from shared_numpy.shared_memory import SharedMemory
        shm = SharedMemory(sys.argv[1])
        resource_tracker.unregister(shm._name, "shared_memory")
        resource_tracker.unregister(shm._name, "shared_memory")
        shm.close()
        own = SharedMemory(create=True, size=10)
        same = SharedMemory(own.name)
        print(own.name)
    """
    code, out, err = run(tmp_path, program, made.name)
    assert code == 0
    assert exists(made.name)
    assert LEAKED.format(1, "shared_memory") in err and "Traceback" not in err
    assert not exists(out.strip())
    # In a process of the same program, forked or not, the owner's claim stands.
    resource_tracker.unregister("/shared_numpy_never_registered", "shared_memory")
    made.close()
    made.unlink()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_unlinked_and_unregistered_by_another_process_is_settled(tmp_path):
    """As code does that speaks to `_posixshmem` itself."""
    assert run(tmp_path, """
        import os
        from shared_numpy import _posixshmem, resource_tracker
        from shared_numpy.shared_memory import SharedMemory
        made = SharedMemory(create=True, size=10)
        if os.fork() == 0:
            _posixshmem.shm_unlink(made._name)
            resource_tracker.unregister(made._name, "shared_memory")
            os._exit(0)
        assert os.wait()[1] == 0
        made.close()
    """) == (0, "", "")


def test_a_program_without_stderr(tmp_path):
    """Its descriptor 2 is a file of its own, into which nobody may write."""
    path = tmp_path / "own"
    code, out, err = run(tmp_path, """
        import os, sys
        # As a daemon does, and as an interpreter finds it that starts without one.
        os.close(2)
        sys.stderr = sys.__stderr__ = None
        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        assert fd == 2
        from shared_numpy.shared_memory import SharedMemory
        print(SharedMemory(create=True, size=10).name)
    """, str(path))
    assert code == 0
    wait_until_gone(out.strip())
    assert path.read_bytes() == b""


def test_a_killed_program_leaves_nothing(tmp_path):
    process = start(tmp_path, """
        import time
        from shared_numpy.shared_memory import SharedMemory
        print(SharedMemory(create=True, size=10).name, flush=True)
        time.sleep(60)
    """)
    name = process.stdout.readline().strip()
    assert exists(name)
    process.kill()
    err = process.communicate(timeout=60)[1]
    assert LEAKED.format(1, "shared_memory") in err
    assert not exists(name)


# -- its life -----------------------------------------------------------------


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
    assert not exists(out.strip())


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


# -- no tracker ---------------------------------------------------------------

UNTRACKED = """
    import multiprocessing as mp
    {install}
    from shared_numpy import resource_tracker
    from shared_numpy.shared_memory import SharedMemory

    def work(name):
        other = SharedMemory(name)
        other.buf[0] = 1
        other.close()
        made = SharedMemory(create=True, size=10)
        made.close()
        made.unlink()

    if __name__ == "__main__":
        made = SharedMemory(create=True, size=10)
        context = mp.get_context("spawn")
        process = context.Process(target=work, args=(made.name,))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert made.buf[0] == 1
        made.close()
        made.unlink()
"""


@pytest.mark.parametrize("install", ["", INSTALL], ids=["plain", "installed"])
def test_without_a_tracker_everything_works_and_one_warning_says_so(tmp_path, install):
    code, out, err = run(
        tmp_path, UNTRACKED.format(install=install), env=environ(SHARED_NUMPY_DISABLE="tracker"))
    assert (code, out) == (0, "")
    assert err.count("UserWarning") == 1, err
    assert "will not be cleaned up" in err
    assert "Traceback" not in err


def test_a_missing_executable_is_named(tmp_path):
    code, out, err = run(tmp_path, """
        from shared_numpy import _tracker
        _tracker._DIRECTORY = "/nonexistent"
        from shared_numpy.shared_memory import SharedMemory
        for _ in range(2):
            made = SharedMemory(create=True, size=10)
            made.close()
            made.unlink()
    """)
    assert (code, out) == (0, "")
    assert err.count("UserWarning") == 1
    assert "/nonexistent/shared-numpy-tracker cannot be started (No such file or directory). " in err


def test_a_warning_made_an_error_leaves_nothing_behind(tmp_path):
    assert run(tmp_path, """
        import os, warnings
        from shared_numpy.shared_memory import SharedMemory
        warnings.simplefilter("error")
        for arguments in ({}, {"name": "shared_numpy_error"}):
            from shared_numpy import _tracker
            _tracker._warned = False
            try:
                SharedMemory(create=True, size=10, **arguments)
            except UserWarning:
                pass
            else:
                raise AssertionError(arguments)
        assert not os.path.exists("/dev/shm/shared_numpy_error")
    """, env=environ(SHARED_NUMPY_DISABLE="tracker")) == (0, "", "")


# -- together with multiprocessing --------------------------------------------

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
        assert not exists(name)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_family_leaves_neither(tmp_path, method):
    process = start(tmp_path, FAMILY, method, "killed")
    line = process.stdout.readline().split()
    names, child = line[:3], int(line[3])
    assert all(exists(name) for name in names)
    process.kill()
    # As long as a child lives, its parent's resources do.
    time.sleep(0.3)
    assert all(exists(name) for name in names)
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
        assert exists(name)
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
    assert exists(name)
    os.unlink("/dev/shm/" + name)
