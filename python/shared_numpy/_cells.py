"""Objects over a cell in shared memory (``_core``): how they travel.

What this module guarantees: they, and objects of classes derived from theirs, are sent by
``multiprocessing``'s pickler and by our queues at any time, by handle, under each start method; plain
``pickle`` refuses. A derived class that has a ``__reduce__`` of its own is sent as that says.
"""

import sys
from multiprocessing import context

from . import _core
from . import _family
from . import reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # noqa: F401

if sys.version_info >= (3, 9):
    from types import GenericAlias

    # `__class_getitem__` of classes that annotations say the contents of.
    generic = classmethod(GenericAlias)  # type: Any
else:
    generic = classmethod(lambda cls, item: cls)


class Shared:
    """An object that is, or has in `_cell`, a cell in ``_core``."""

    _cell = None  # type: Any

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        # Who says how objects are pickled means multiprocessing's pickler too.
        if cls.__reduce_ex__ is Shared.__reduce_ex__ and cls.__reduce__ is object.__reduce__:
            reduction.register_reducer(cls, reduce, reduce_in_queue)

    def _send(self):
        """A handle, which holds the cell until somebody receives it."""
        return self._cell.send()

    def __reduce_ex__(self, protocol):
        if type(self).__reduce__ is not object.__reduce__:
            return self.__reduce__()  # as `object` does
        # By a pickler that asks no table of multiprocessing's: plain pickle, most likely.
        context.assert_spawning(self)
        return reduce(self)


def reduce(self):
    """The object by handle, as ``multiprocessing``'s pickler wants it."""
    handle = self._send()
    _family.export()
    return rebuild, (type(self), handle, self._details())


def rebuild(cls, handle, details):
    """The object that a handle leads to.

    Raises
    ------
    StaleHandle, ForeignHandle, TrackerUnavailable
        As for arrays.
    """
    self = cls.__new__(cls)
    try:
        self._restore(handle, details)
    except _core.UnknownFamily:
        _family.join(handle)
        self._restore(handle, details)
    return self


def reduce_in_queue(self):
    """The object as a queue's pickler wants it: its memory goes along as an array's does."""
    return rebuild_in_queue, (type(self), _core.queue_keep(self._send()), self._details())


def rebuild_in_queue(cls, place, details):
    """The object that a queue brought."""
    return rebuild(cls, _core.queue_handle(place), details)


class AtomicInt(Shared):
    """An integer of 64 bits that all processes change without a lock.

    Each method is one step: no other process sees, or does, anything in between.
    """

    def __init__(self, value=0):
        self._cell = _core.IntegerCell(value)

    def _details(self):
        return None

    def _restore(self, handle, _):
        self._cell = _core.IntegerCell.open(handle)

    def load(self):
        """The value."""
        return self._cell.load()

    def store(self, value):
        """Replaces the value."""
        self._cell.store(value)

    def exchange(self, value):
        """Replaces the value; returns the one before."""
        return self._cell.exchange(value)

    def add(self, delta=1):
        """Adds; returns the value after. OverflowError, and nothing added, beyond 64 bits."""
        return self._cell.add(delta)

    def compare_exchange(self, expected, value):
        """Replaces the value if it is `expected`; returns whether it was."""
        return self._cell.compare_exchange(expected, value)

    def __repr__(self):
        return "<{}({})>".format(type(self).__name__, self.load())
