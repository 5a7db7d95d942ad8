"""Shared memory between the processes of one machine, and NumPy arrays in it.

Importing this package loads nothing: each public name is fetched at its first
use, so that ``from shared_numpy import shared_memory`` costs neither NumPy nor
``multiprocessing``. (On 3.6 by the class of this module: an ordinary one is quicker, and
knows a ``__getattr__`` from 3.7 on.) Type checkers read ``__init__.pyi``.
"""

import os
import sys

# What is fetched later must be found from another directory as well.
__path__ = [os.path.abspath(entry) for entry in __path__]

__all__ = [
    "AbandonedLock",
    "AtomicInt",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "ForeignHandle",
    "JoinableQueue",
    "Latest",
    "Lock",
    "PeerDied",
    "Queue",
    "RLock",
    "Semaphore",
    "ShareableList",
    "SharedMemory",
    "SharedNDArray",
    "SimpleQueue",
    "StaleHandle",
    "TrackerUnavailable",
    "__version__",
    "array",
    "attach",
    "drop_inherited",
    "empty",
    "empty_like",
    "from_array",
    "full",
    "full_like",
    "install",
    "managers",
    "ndarray",
    "ones",
    "ones_like",
    "resource_tracker",
    "semaphore_tracker",
    "shared_memory",
    "stats",
    "trim",
    "uninstall",
    "unlink",
    "zeros",
    "zeros_like",
]

# Public name -> the submodule that defines it; None for a submodule itself.
_HOME = {
    "AbandonedLock": "synchronize",
    "AtomicInt": "synchronize",
    "Barrier": "synchronize",
    "BoundedSemaphore": "synchronize",
    "Condition": "synchronize",
    "Event": "synchronize",
    "ForeignHandle": "memory",
    "JoinableQueue": "queue",
    "Latest": "latest",
    "Lock": "synchronize",
    "PeerDied": "queue",
    "Queue": "queue",
    "RLock": "synchronize",
    "Semaphore": "synchronize",
    "ShareableList": "shared_memory",
    "SharedMemory": "shared_memory",
    "SharedNDArray": "arrays",
    "SimpleQueue": "queue",
    "StaleHandle": "memory",
    "TrackerUnavailable": "memory",
    "__version__": "_core",
    "array": "arrays",
    "arrays": None,
    "attach": "named",
    "drop_inherited": "memory",
    "empty": "arrays",
    "empty_like": "arrays",
    "from_array": "arrays",
    "full": "arrays",
    "full_like": "arrays",
    "install": "_install",
    "latest": None,
    "managers": None,
    "memory": None,
    "named": None,
    "ndarray": "arrays",
    "ones": "arrays",
    "ones_like": "arrays",
    "queue": None,
    "reduction": None,
    "resource_tracker": None,
    "semaphore_tracker": None,
    "shared_memory": None,
    "stats": "memory",
    "synchronize": None,
    "trim": "memory",
    "uninstall": "_install",
    "unlink": "named",
    "zeros": "arrays",
    "zeros_like": "arrays",
}


def __getattr__(name):
    try:
        home = _HOME[name]
    except KeyError:
        # In these words `hasattr`, `from ... import` and help texts expect it.
        raise AttributeError("module {!r} has no attribute {!r}".format(
            __name__, name)) from None
    # A plain `__import__`: `importlib` is not loaded in a bare interpreter.
    full_name = __name__ + "." + (home or name)
    __import__(full_name)
    value = sys.modules[full_name]
    if home is not None:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()).union(__all__))


if sys.version_info < (3, 7):
    class _Package(type(sys)):
        """The package's own class, for want of ``__getattr__`` in modules."""

        def __getattr__(self, name):
            return __getattr__(name)

        def __dir__(self):
            return __dir__()

    sys.modules[__name__].__class__ = _Package
