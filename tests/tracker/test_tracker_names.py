"""The tracker under the names that `multiprocessing` and programs in the wild use."""

import os
import sys

import pytest

from shared_numpy import resource_tracker, semaphore_tracker
from shared_numpy.resource_tracker import ResourceTracker
from shared_numpy.shared_memory import SharedMemory
from programs import shm_exists


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
    assert not shm_exists(made._name)
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
