"""The memory of arrays: what there is of it, and giving it back.

Nothing here is needed for memory to come back; it does when the last process that
can see it drops it or ends.
"""

import os

from . import _core
from . import _family  # noqa: F401  (says who we are, before anything is made)

__all__ = ["stats", "trim", "gc", "drop_inherited", "StaleHandle", "ForeignHandle",
           "TrackerUnavailable"]

StaleHandle = _core.StaleHandle
ForeignHandle = _core.ForeignHandle
TrackerUnavailable = _core.TrackerUnavailable


def stats():
    """What this process has of shared memory.

    Returns
    -------
    dict
        Sizes are in bytes. Of the memory that this process allocated:
        ``segments``, how many there are; ``in_use_bytes``, held by somebody;
        ``recycled_bytes``, free and ready for the next array; ``committed_bytes``, in
        use or recycled; ``by_holder``, a list of ``{"pid", "blocks", "bytes"}``, one
        for each process that holds some; ``in_flight``, how many handles are on their
        way to somebody. Of what it holds, wherever that was allocated:
        ``held_blocks``; ``attached_segments``, how many segments of others it has
        mapped; ``inherited_blocks`` and ``inherited_bytes``, what it holds because its
        parent did when it was forked. An array is a block; sizes of blocks are
        rounded up.
    """
    return _core.stats()


def trim(in_flight=False):
    """Gives free memory back to the system now; it goes by itself above 256 MiB.

    Parameters
    ----------
    in_flight : bool
        Also give up handles that were sent and not received: who receives one later
        gets `StaleHandle`, unless somebody else has kept the array.

    Returns
    -------
    int
        How many bytes went.
    """
    return _core.trim(in_flight)


def gc():
    """Removes named segments, arrays and semaphores of programs that were killed together with their trackers.

    What is left behind otherwise, a tracker removes. Whatever a living program of this user has
    made is left alone, and so is everything of other users and containers. The next tracker
    that starts does the same, in silence.

    Returns
    -------
    list of str
        The names that were removed.

    Raises
    ------
    OSError
        Some could not be removed, and stay; the others are.
    """
    removed, failed = [], []
    for _kind, name, number in _core.collect_leftovers():
        name = name.lstrip("/")
        if number is None:
            removed.append(name)
        else:
            failed.append((number, name))
    if failed:
        number, name = failed[0]
        raise OSError(number, "{} of {} names that dead programs left behind cannot be removed: {}".format(
            len(failed), len(failed) + len(removed), os.strerror(number)), name)
    return removed


def drop_inherited():
    """Lets go of the arrays that this process has only because it was forked.

    A forked child holds what its parent held, whether it uses it or not. After this
    call it holds only what it made or received itself. Using one of the others then
    raises ValueError, its views too. (What goes past Python cannot be stopped: a
    ``memoryview`` or an ordinary array over the same memory, made before or by
    ``np.asarray(a)``, and copying by ``np.array(a)`` or ``other[:] = a``. That reads and
    writes memory which may be another array's by now.)

    Returns
    -------
    int
        How many blocks were let go of.
    """
    dropped = _core.drop_inherited()
    if dropped:
        from . import _dropped
        _dropped.guard()
    return dropped
