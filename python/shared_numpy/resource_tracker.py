"""What ``multiprocessing.resource_tracker`` offers, over the tracker of this package.

One tracker serves the whole tree of processes, for segments, semaphores and
arrays. It is a small executable; `_tracker` and ``crates/core/src/tracker`` have
what it guarantees. Unregistering what was never registered here does nothing, so
that code which unregisters a segment after attaching to it (to work around the
standard library's habit of registering it) needs no change.
"""

import os
import sys

from . import _core
from . import _tracker
from ._posixshmem import shm_unlink

__all__ = ["ensure_running", "register", "unregister"]

# The longest message of the standard library's tracker: the limit that its users know.
_MESSAGE_MAX = 512


def _cleanup_noop(name):
    raise RuntimeError("noop should never be registered or cleaned up")


def _cleanup_dummy(name):
    pass


def _sem_unlink(name):
    # Loaded when needed: it is an extension module of `multiprocessing`.
    from _multiprocessing import sem_unlink
    sem_unlink(name)


# Iterated over by others, who expect exactly the standard library's keys of the same
# version. What the tracker really accepts is `_core.TRACKER_TYPES`.
_CLEANUP_FUNCS = {
    "noop": _cleanup_noop,
    "semaphore": _sem_unlink,
    "shared_memory": shm_unlink,
}
if sys.version_info >= (3, 13):
    _CLEANUP_FUNCS["dummy"] = _cleanup_dummy
