"""What ``multiprocessing.semaphore_tracker`` of Python 3.6 and 3.7 offers.

The same tracker as in `resource_tracker`, which looks after semaphores and segments
alike; only the calls have no type.
"""

from .resource_tracker import _resource_tracker, main  # noqa: F401

__all__ = ["ensure_running", "register", "unregister"]


class SemaphoreTracker:
    """The program's tracker, as the semaphores of Python 3.6 and 3.7 speak to it."""

    def getfd(self):
        """The connection's descriptor, for handing to a child."""
        return _resource_tracker.getfd()

    def ensure_running(self):
        """Starts the tracker unless it runs."""
        _resource_tracker.ensure_running()

    def register(self, name):
        """Has a semaphore cleaned up when the program is gone."""
        _resource_tracker.register(name, "semaphore")

    def unregister(self, name):
        """Takes a semaphore back."""
        _resource_tracker.unregister(name, "semaphore")

    def _check_alive(self):
        return _resource_tracker._check_alive()

    def _send(self, cmd, name):
        _resource_tracker._send(cmd, name, "semaphore")

    def _stop(self):
        _resource_tracker._stop()

    @property
    def _lock(self):
        return _resource_tracker._lock

    @property
    def _pid(self):
        return _resource_tracker._pid

    @_pid.setter
    def _pid(self, pid):
        pass

    @property
    def _fd(self):
        return _resource_tracker._fd

    @_fd.setter
    def _fd(self, fd):
        # The parent's connection, as `multiprocessing` hands it to a child.
        _resource_tracker._fd = fd


_semaphore_tracker = SemaphoreTracker()
ensure_running = _semaphore_tracker.ensure_running
register = _semaphore_tracker.register
unregister = _semaphore_tracker.unregister
getfd = _semaphore_tracker.getfd
