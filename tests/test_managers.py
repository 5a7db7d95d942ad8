"""`SharedMemoryManager` under each start method, and what it does better."""

import multiprocessing
import os
import sys
import textwrap
from multiprocessing import ProcessError

import pytest

from shared_numpy import managers
from shared_numpy.managers import SharedMemoryManager, SharedMemoryServer
from shared_numpy.shared_memory import SharedMemory
import strangers
from programs import METHODS, shm_exists, soon

PROGRAM = textwrap.dedent("""
    import multiprocessing, os, signal, sys, time
    from shared_numpy.managers import SharedMemoryManager
    from shared_numpy.shared_memory import SharedMemory

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
""")


def start(tmp_path, body, method):
    return strangers.start(tmp_path, PROGRAM + textwrap.indent(textwrap.dedent(body), "    "), method)


def run(tmp_path, body, method="fork"):
    process = start(tmp_path, body, method)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


# -- the interface ------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_what_a_manager_made_goes_at_its_shutdown(tmp_path, method):
    assert run(tmp_path, """
        manager = SharedMemoryManager(ctx=context)
        try:
            manager.SharedMemory(size=9)
        except ValueError:
            pass
        else:
            raise AssertionError("not started yet")
        manager.start()
        items = manager.ShareableList("howdy")
        assert list(items) == list("howdy")
        segment = manager.SharedMemory(size=128)
        segment.buf[0] = 7
        manager.shutdown()
        manager.shutdown()
        for name in (items.shm.name, segment.name):
            try:
                SharedMemory(name)
            except FileNotFoundError:
                pass
            else:
                raise AssertionError("still there")
        # What is mapped stays readable.
        assert segment.buf[0] == 7 and items[0] == "h"
        try:
            manager.start()
        except multiprocessing.ProcessError as error:
            assert "has shut down" in str(error)
        else:
            raise AssertionError("started twice")
        with SharedMemoryManager(ctx=context) as manager:
            name = manager.SharedMemory(1).name
        assert not os.path.exists("/dev/shm/" + name)
    """, method) == (0, "", "")


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_leaves_the_server_running(tmp_path, method):
    assert run(tmp_path, """
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with SharedMemoryManager(ctx=context) as manager:
            os.kill(manager._process.pid, signal.SIGINT)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(30)
            except KeyboardInterrupt:
                pass
            time.sleep(0.1)
            assert manager._process.is_alive()
            assert manager.ShareableList([1, 2])[1] == 2
        assert not manager._process or not manager._process.is_alive()
    """, method) == (0, "", "")


def test_what_was_unlinked_by_hand_does_not_keep_the_rest():
    with SharedMemoryManager() as manager:
        made = [manager.SharedMemory(10) for _ in range(3)]
        made[0].unlink()
    assert not any(shm_exists(segment.name) for segment in made)


def test_a_manager_starts_once():
    with SharedMemoryManager() as manager:
        with pytest.raises(ProcessError, match="Already started"):
            manager.start()
        with pytest.raises(ProcessError, match="Already started"):
            manager.get_server()
    with pytest.raises(ProcessError, match="has shut down"):
        manager.get_server()


def test_the_server_keeps_account():
    with SharedMemoryManager() as manager:
        def ask(*arguments):
            with manager._Client(manager._address, authkey=manager._authkey) as connection:
                return managers.dispatch(connection, None, *arguments)

        segment = manager.SharedMemory(10)
        items = manager.ShareableList([1])
        assert ask("list_segments") == [segment.name, items.shm.name]
        ask("release_segment", (segment.name,))
        assert ask("list_segments") == [items.shm.name]
        assert not shm_exists(segment.name) and shm_exists(items.shm.name)
        with pytest.raises(managers.RemoteError if hasattr(managers, "RemoteError") else Exception):
            ask("release_segment", (segment.name,))


def test_get_server_gives_a_server_of_ours():
    manager = SharedMemoryManager()
    server = manager.get_server()
    assert isinstance(server, SharedMemoryServer)
    made = SharedMemory(create=True, size=10)
    server.track_segment(None, made.name)
    assert server.list_segments(None) == [made.name]
    # As a forked child would have it: inherited, but not its own.
    if os.fork() == 0:
        del server, manager
        os._exit(0)
    assert os.wait()[1] == 0
    assert shm_exists(made.name)
    server.release_segment(None, made.name)
    assert not shm_exists(made.name)
    server.listener.close()
    made.close()


class Registry:
    def __init__(self, *args, **kwargs):
        self.keys = sorted(kwargs)

    def get(self):
        return self.keys


class ContextProxy(managers.BaseProxy):
    _exposed_ = ("get",)
    _shared_memory_proxy = True

    def get(self):
        return self._callmethod("get")


class Custom(SharedMemoryManager):
    pass


Custom.register("Plain", Registry, exposed=("get",))
Custom.register("Aware", Registry, ContextProxy)


def test_proxies_and_types_of_ones_own():
    with Custom() as manager:
        # Keywords that a signature of ours might have had (those of 3.6 and 3.7 have).
        clash = {"c": 1, "typeid": 2} if sys.version_info >= (3, 8) else {"connection": 1}
        assert manager.Plain(**clash).get() == sorted(clash)
        assert manager.Aware(**clash).get() == sorted(list(clash) + ["shared_memory_context"])
        assert shm_exists(manager.SharedMemory(10).name)


def test_all_public_names_of_the_standard_module_are_here():
    from multiprocessing import managers as standard
    for name, value in vars(standard).items():
        if name.startswith(("_", "SharedMemory")):
            continue
        if getattr(value, "__module__", None) == standard.__name__:
            assert getattr(managers, name) is value
    assert set(standard.__all__) <= set(managers.__all__)
    assert issubclass(SharedMemoryManager, standard.BaseManager)
    for name in managers.__all__:
        assert hasattr(managers, name)


# -- when things go wrong -----------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_server_ends_with_its_owner(tmp_path, method):
    process = start(tmp_path, """
        manager = SharedMemoryManager(ctx=context)
        manager.start()
        made = manager.SharedMemory(10)
        print(made.name, manager._process.pid, flush=True)
        time.sleep(60)
    """, method)
    name, server = process.stdout.readline().split()
    process.kill()
    err = process.communicate(timeout=60)[1]
    assert soon(lambda: not shm_exists(name) and not os.path.exists("/proc/{}/fd/0".format(server)))
    # The fork server of 3.6 and 3.7 has complaints of its own about its dead client.
    assert "Traceback" not in err or method == "forkserver"


def test_a_server_that_hangs_is_ended_after_the_timeout(tmp_path):
    assert run(tmp_path, """
        class Deaf(SharedMemoryManager):
            pass
        manager = SharedMemoryManager(ctx=context, shutdown_timeout=0.1)
        manager.start(signal.signal, (signal.SIGTERM, signal.SIG_IGN))
        made = manager.SharedMemory(10)
        pid = manager._process.pid
        os.kill(pid, signal.SIGSTOP)
        name = made.name
        # It cannot answer: the question is asked by a process that does not wait.
        child = os.fork()
        if child == 0:
            time.sleep(1)
            os.kill(pid, signal.SIGCONT)
            os._exit(0)
        manager.shutdown()
        os.waitpid(child, 0)
        assert not manager._process.is_alive()
        made.close()
        assert not os.path.exists("/dev/shm/" + name)
    """) == (0, "", "")


def test_an_interrupted_creation_leaves_nothing(monkeypatch):
    made = []

    class Noted(SharedMemory):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    def fail(*args):
        raise KeyboardInterrupt

    with SharedMemoryManager() as manager:
        monkeypatch.setattr(managers, "SharedMemory", Noted)
        monkeypatch.setattr(managers, "dispatch", fail)
        with pytest.raises(KeyboardInterrupt):
            manager.SharedMemory(10)
        monkeypatch.undo()
    assert len(made) == 1 and not shm_exists(made[0]._name)


def test_the_context_is_the_default_one_too():
    assert multiprocessing.get_start_method() in METHODS
    manager = SharedMemoryManager()
    manager.start()
    pid = manager._process.pid
    manager.shutdown()
    manager.join()
    assert not os.path.exists("/proc/{}/fd/0".format(pid))
