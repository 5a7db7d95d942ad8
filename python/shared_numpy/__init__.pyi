from . import arrays as arrays
from . import latest as latest
from . import managers as managers
from . import memory as memory
from . import named as named
from . import queue as queue
from . import reduction as reduction
from . import resource_tracker as resource_tracker
from . import semaphore_tracker as semaphore_tracker
from . import shared_memory as shared_memory
from . import synchronize as synchronize
from ._core import __version__ as __version__
from ._install import install as install
from ._install import uninstall as uninstall
from .arrays import (
    SharedNDArray as SharedNDArray,
    array as array,
    empty as empty,
    empty_like as empty_like,
    from_array as from_array,
    full as full,
    full_like as full_like,
    ndarray as ndarray,
    ones as ones,
    ones_like as ones_like,
    zeros as zeros,
    zeros_like as zeros_like,
)
from .latest import Latest as Latest
from .memory import ForeignHandle as ForeignHandle
from .memory import StaleHandle as StaleHandle
from .memory import TrackerUnavailable as TrackerUnavailable
from .memory import drop_inherited as drop_inherited
from .memory import stats as stats
from .memory import trim as trim
from .named import attach as attach
from .named import unlink as unlink
from .queue import JoinableQueue as JoinableQueue
from .queue import PeerDied as PeerDied
from .queue import Queue as Queue
from .queue import SimpleQueue as SimpleQueue
from .shared_memory import ShareableList as ShareableList
from .shared_memory import SharedMemory as SharedMemory
from .synchronize import (
    AbandonedLock as AbandonedLock,
    AtomicInt as AtomicInt,
    Barrier as Barrier,
    BoundedSemaphore as BoundedSemaphore,
    Condition as Condition,
    Event as Event,
    Lock as Lock,
    RLock as RLock,
    Semaphore as Semaphore,
)

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
