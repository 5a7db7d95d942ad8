"""``ShareableList``: a list of fixed length in shared memory.

The bytes are those of the standard library's own lists (``docs/shareable_list.md``
has the format): what either side writes the other one reads. Guaranteed beyond it:

- every value comes back exactly, also text that ends in NUL or is not ASCII;
- a value that cannot be stored is an exception that names its index, before
  anything is created or changed;
- whatever a segment contains, the worst that happens is an exception;
- the list stays usable until it is dropped itself: ``sl.shm.close()`` at any time
  takes nothing away from it.

Getting and setting items is in the extension module (``ListBase``).
"""

import sys

from . import _core

if sys.version_info >= (3, 9):
    # Only where it is used: on 3.6 `types` brings `collections` along, 4 ms in all.
    from types import GenericAlias

__all__ = ["ShareableList"]


def _strip(value):
    return value.rstrip(b"\x00")


# By recorded code: from what `struct` unpacks to the value.
_BACK_TRANSFORMS = {
    0: lambda value: value,
    1: lambda value: _strip(value).decode("utf-8"),
    2: _strip,
    3: lambda value: None,
}


class ShareableList(_core.ListBase):
    """A list of fixed length in shared memory, made anew or attached to by name.

    Parameters
    ----------
    sequence : iterable, optional
        The values of a new list: ``int`` of up to 64 bits, ``float``, ``bool``,
        ``str``, ``bytes``, ``None``. Instances of subclasses are accepted and come
        back as the plain type. Without `sequence` and with `name` the list is
        attached to.
    name : str, optional
        The name of the shared memory; a random one is made for a new list.
    track, readonly : optional
        As for `SharedMemory`; `readonly` is for attaching.

    Raises
    ------
    TypeError, OverflowError, ValueError
        A value cannot be stored; the message has its index. ``ValueError`` also
        when the segment attached to holds no list, or a damaged one.
    FileExistsError, FileNotFoundError, OSError
        As `SharedMemory`.

    Texts have room for their own length rounded up to a multiple of 8 bytes (at least
    one byte more, for ASCII). A longer one is a ``ValueError`` when it is assigned.

    Two processes that write to the *same* item at the same time need a lock; one
    that reads while another one writes sees the old value, the new one, or an
    exception.
    """

    _alignment = 8

    def __init__(self, sequence=None, *, name=None, track=None, readonly=False):
        # Here, because that module imports this one.
        from . import shared_memory

        if sequence is None and name is not None:
            self.shm = shared_memory.SharedMemory(name, track=track, readonly=readonly)
            _core.list_open(self, self.shm._mmap)
            return
        if readonly:
            raise ValueError("'readonly' is for attaching: a new list has to be written")
        values = () if sequence is None else tuple(sequence)
        size = _core.list_size(values)
        self.shm = shared_memory.SharedMemory(name, create=True, size=size, track=track)
        try:
            _core.list_fill(self, self.shm._mmap, values)
        except BaseException:
            self.shm.close()
            self.shm.unlink()
            raise

    def __contains__(self, value):
        return any(item == value for item in self)

    def __reversed__(self):
        return map(self.__getitem__, range(len(self) - 1, -1, -1))

    def __reduce__(self):
        keywords = {}
        if self.shm._track is not None:
            keywords["track"] = self.shm._track
        if self.shm._readonly:
            keywords["readonly"] = True
        return _reattach, (self.__class__, self.shm.name, keywords)

    def __repr__(self):
        return "{}({}, name={!r})".format(
            self.__class__.__name__, list(self), self.shm.name)

    @property
    def format(self):
        """The ``struct`` formats of all items; a text has the size of its room."""
        return _core.list_formats(self)

    def count(self, value):
        """How many items equal `value`."""
        return sum(1 for item in self if item == value)

    def index(self, value, start=0, stop=None):
        """The first position from `start` and before `stop` whose item equals `value`.

        Raises
        ------
        ValueError
            There is none.
        """
        for position in range(*slice(start, stop).indices(len(self))):
            if self[position] == value:
                return position
        raise ValueError("{!r} not in this container".format(value))

    if sys.version_info >= (3, 9):
        __class_getitem__ = classmethod(GenericAlias)
    else:
        def __class_getitem__(cls, item):
            return cls

    # What follows is not part of the interface; programs use it all the same.

    def _position(self, position):
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError("Requested position out of range.")
        return position

    def _get_packing_format(self, position):
        """The ``struct`` format of one item."""
        return _core.list_format(self, self._position(position))

    def _get_back_transform(self, position):
        """The function from what ``struct`` unpacks to the value of one item."""
        code = _core.list_code(self, self._position(position))
        try:
            return _BACK_TRANSFORMS[code]
        except KeyError:
            raise ValueError("item {} of the ShareableList is damaged: "
                             "its code is {}".format(position, code)) from None

    @property
    def _list_len(self):
        return len(self)

    @property
    def _offset_data_start(self):
        return _core.list_parts(self)[0]

    @property
    def _offset_packing_formats(self):
        return _core.list_parts(self)[1]

    @property
    def _offset_back_transform_codes(self):
        return _core.list_parts(self)[2]


def _reattach(cls, name, keywords):
    """Unpickles a `ShareableList`: attaches to it in this process."""
    return cls(name=name, **keywords)
