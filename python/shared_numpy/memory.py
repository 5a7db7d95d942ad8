"""The memory of arrays: what there is of it, and giving it back.

Nothing here is needed for memory to come back; it does when the last process that
can see it drops it or ends.
"""

from . import _core
from . import _family  # noqa: F401  (says who we are, before anything is made)

__all__ = ["stats", "trim", "drop_inherited", "StaleHandle", "ForeignHandle",
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


def drop_inherited():
    """Lets go of the arrays that this process has only because it was forked.

    A forked child holds what its parent held, whether it uses it or not. After this
    call it holds only what it made or received itself. Using one of the others then
    raises ValueError, its views too. (What goes past Python cannot be stopped: a
    ``memoryview`` or an ordinary array over the same memory, made before, received
    through a queue, or by ``np.asarray(a)``, and copying by ``np.array(a)`` or ``other[:] = a``. That reads and
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
