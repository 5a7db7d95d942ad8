"""Shared memory by name: a drop-in for ``multiprocessing.shared_memory``.

The interface is that of the newest CPython, on every version from 3.6. What is
guaranteed beyond it:

- attaching to a segment never makes this process responsible for it;
- ``close()`` is always legal; arrays and views over ``buf`` stay valid until
  they are dropped themselves, and the memory is unmapped with the last of them;
- memory is reserved when a segment is created: a full ``/dev/shm`` is an
  ``OSError`` and never a SIGBUS;
- no file descriptor stays open;
- the name of an array (``a.shm.name``) leads to its memory in the program that has it.
"""

import os

from . import _core
from . import _posixshmem  # noqa: F401  (programs reach for it here)
from . import _tracker
from ._shareable_list import ShareableList

__all__ = ["SharedMemory", "ShareableList"]

_USE_POSIX = True
_O_CREX = os.O_CREAT | os.O_EXCL
# Short enough for every system: macOS allows 31 bytes, slash included.
_SHM_NAME_PREFIX = "/psm_"
# What ``a.shm.name`` says of an array without a name begins with this (`named.name_of`),
# and has a dot further on. (No pattern: `re` would cost a bare import a third more.)
_ARRAY_PREFIX = "snp_"
_SHM_SAFE_NAME_LENGTH = len(_SHM_NAME_PREFIX) + 16


def _make_filename():
    """A new random name, with its slash, for a segment."""
    return _SHM_NAME_PREFIX + os.urandom(8).hex()


class SharedMemory:
    """A segment of shared memory, created anew or attached to by name.

    Parameters
    ----------
    name : str, optional
        The segment's name; leading slashes do not matter. With ``create=True``
        and no name a random one is made.
    create : bool
        Create the segment instead of attaching to it.
    size : int
        The size in bytes of a new segment; ignored when attaching.
    track : bool, optional
        Whether the resource tracker removes the segment when the program that
        asks for it has ended. By default what is created is tracked and what is
        attached is not.
    readonly : bool
        Attach without the right to write: writing raises ``TypeError``.
    mode : int, optional
        Permission bits of a new segment, exactly (the umask does not apply);
        0o600 by default.
    reserve : bool, optional
        Whether memory is committed at creation. By default it is up to 64 MiB,
        and above that it is checked that so much is free.

    Raises
    ------
    FileExistsError, FileNotFoundError
        The name is taken; there is no such segment.
    OSError
        ``ENOSPC`` when there is no room for the segment, with the sizes asked
        and free; nothing is left behind.
    ValueError
        A name no segment can have, a size that is not positive, a segment
        without a name to attach to, or one that has no bytes yet.

    What ``a.shm.name`` says of an array without a name of its own can be attached to as
    well, inside its program; ``unlink()`` does nothing to it.

    As a context manager it closes itself at the end of the block; removing the
    segment stays a decision of its own (`unlink`).
    """

    _name = None
    _mmap = None
    _buf = None
    _size = 0
    _flags = os.O_RDWR
    _mode = 0o600
    _prepend_leading_slash = True
    _track = None
    _readonly = False
    _identity = None
    _generated = False
    _opened_fd = -1
    # Of an array without a name, which has no file: what is removed or reopened there?
    _is_nameless = False

    def __init__(self, name=None, create=False, size=0, *, track=None,
                 readonly=False, mode=None, reserve=None):
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create:
            self._flags = _O_CREX | os.O_RDWR
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
            if readonly:
                raise ValueError("'readonly' is for attaching: a new segment has to be written")
        elif name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        if mode is not None:
            self._mode = mode
        self._track = track
        if not create:
            self._readonly = bool(readonly)
            self._attach(name)
        elif name is None:
            self._create_unnamed(size, reserve)
        else:
            self._create(name, size, reserve)

    def _look(self):
        self._size = len(self._mmap)
        self._buf = memoryview(self._mmap)

    def _attach(self, name):
        _tracker.come()
        try:
            self._mmap, self._identity = _core.segment_attach(
                name, self._flags, self._mode, self._readonly)
        except (FileNotFoundError, ValueError):
            # Names of arrays may be longer than those of files can be.
            if not name.lstrip("/").startswith(_ARRAY_PREFIX) or "." not in name:
                raise
            self._mmap = _memory_of_array(name, self._readonly)
            self._name = "/" + name.lstrip("/")
            self._is_nameless = True
            self._look()
            return
        self._name = "/" + name.lstrip("/")
        self._look()
        if self._track:
            _tracker.register("shared_memory", self._name, self._identity)

    def _create(self, name, size, reserve):
        made = []
        try:
            # An exception that a signal's handler raises comes up at the next step of
            # Python code, which an assignment would be. `extend` and `map` are none:
            # when it is caught, `made` says whether there is a segment of ours.
            made.extend(map(_core.segment_create, (name,), (size,), (self._mode,), (reserve,)))
            self._mmap, self._identity = made[0]
            self._name = "/" + name.lstrip("/")
            self._look()
            if self._track is not False:
                _tracker.register("shared_memory", self._name, self._identity)
        except BaseException:
            # That, or a warning made an error: what was created must not stay behind.
            if made:
                _remove("/" + name.lstrip("/"), made[0][1])
            raise

    def _create_unnamed(self, size, reserve):
        # Nobody else can have a random name, so the tracker may learn of it first:
        # killed in between, the process leaves nothing.
        tracked = self._track is not False
        while True:
            name = _make_filename()
            try:
                if tracked:
                    _tracker.register("shared_memory", name)
                self._mmap, self._identity = _core.segment_create(
                    name, size, self._mode, reserve)
                self._name = name
                self._generated = True
                self._look()
                return
            except FileExistsError:
                if tracked:
                    _tracker.unregister("shared_memory", name)
            except BaseException:
                # A signal's handler may have raised before or after the segment was made.
                self._discard(name, tracked)
                raise

    def _discard(self, name, tracked):
        """Removes what bears a name that nobody else can have chosen."""
        self._buf = self._mmap = self._name = None
        try:
            _core.segment_unlink(name, None)
        except OSError:
            pass
        if tracked:
            _tracker.gone("shared_memory", name)

    def __reduce__(self):
        keywords = {}
        if self._track is not None:
            keywords["track"] = self._track
        if self._readonly:
            keywords["readonly"] = True
        return _reattach, (self.__class__, self.name, self.size, keywords)

    def __repr__(self):
        return "{}({!r}, size={})".format(self.__class__.__name__, self.name, self.size)

    def __del__(self):
        # Derived classes call it. Memory is unmapped without our help; not to do it
        # here means that a Ctrl-C meanwhile is not lost in an ignored exception.
        if self._opened_fd >= 0:
            self.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    @property
    def buf(self):
        """The memory as a memoryview of bytes; None after `close`."""
        return self._buf

    @property
    def name(self):
        """The name by which other processes attach, without a slash."""
        name = self._name
        if self._prepend_leading_slash and name is not None and name.startswith("/"):
            return name[1:]
        return name

    @property
    def size(self):
        """The size in bytes."""
        return self._size

    @property
    def _fd(self):
        """A descriptor of the segment's file, opened at the first use; -1 after `close`.

        The number is checked at each use: a daemon may have closed all
        descriptors, and the number may be another file's by now.
        """
        if self._mmap is None or self._is_nameless:
            return -1
        fd = self._opened_fd
        if fd < 0 or not self._is_ours(fd):
            fd = self._opened_fd = _core.segment_reopen(
                self._name, self._identity, self._readonly)
        return fd

    @_fd.setter
    def _fd(self, fd):
        self._opened_fd = fd

    def _is_ours(self, fd):
        try:
            status = os.fstat(fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def close(self):
        """Gives up this object's access. Legal at any time and any number of times.

        Views over `buf` stay valid; the memory is unmapped with the last of them.
        """
        fd, self._opened_fd = self._opened_fd, -1
        self._buf = None
        self._mmap = None
        if fd >= 0 and self._is_ours(fd):
            os.close(fd)

    def unlink(self):
        """Removes the segment's name; the memory goes with its last mapping.

        Raises
        ------
        FileNotFoundError
            It was removed before (also if another segment bears the name that the
            caller chose, which is left alone).
        """
        if self._name is None or self._is_nameless:
            return
        _remove(self._name, self._identity, self._generated)


def _reattach(cls, name, size, keywords):
    """Unpickles a `SharedMemory`: attaches to it in this process."""
    return cls(name, False, size, **keywords)


def _memory_of_array(name, readonly):
    """The memory of the array with the name that ``a.shm.name`` was.

    Raises
    ------
    FileNotFoundError
        It leads nowhere.
    """
    try:
        from . import named
        memory = named.open_name(name)[0]
    except (LookupError, ValueError, ImportError) as error:
        import errno
        raise FileNotFoundError(
            errno.ENOENT, "no such array: {}".format(error), "/" + name.lstrip("/")) from error
    return named.without_writing(memory) if readonly else memory


def _remove(name, identity, generated=False):
    """Removes a name and tells the tracker; FileNotFoundError if it is gone.

    A `generated` name can have become nobody else's: that look is saved.
    """
    try:
        if _core.segment_remove(name, identity, not generated):
            return
    except FileNotFoundError:
        _tracker.gone("shared_memory", name, identity)
        raise
    _tracker.gone("shared_memory", name, identity)
