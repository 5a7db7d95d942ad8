from types import TracebackType
from typing import TypeVar

from . import _core
from . import _posixshmem as _posixshmem
from ._shareable_list import ShareableList as ShareableList

__all__ = ["SharedMemory", "ShareableList"]

_Self = TypeVar("_Self", bound="SharedMemory")

_USE_POSIX: bool
_O_CREX: int
_SHM_NAME_PREFIX: str
_SHM_SAFE_NAME_LENGTH: int

def _make_filename() -> str: ...

class SharedMemory:
    # Not part of the interface; programs use them all the same.
    _name: str | None
    _mmap: _core.Exporter | None
    _buf: memoryview | None
    _size: int
    _flags: int
    _mode: int
    _prepend_leading_slash: bool
    _track: bool | None
    _readonly: bool
    def __init__(
        self,
        name: str | None = None,
        create: bool = False,
        size: int = 0,
        *,
        track: bool | None = None,
        readonly: bool = False,
        mode: int | None = None,
        reserve: bool | None = None,
    ) -> None: ...
    # None after `close`. Not said in the type: nearly every use is of an open segment.
    @property
    def buf(self) -> memoryview: ...
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def _fd(self) -> int: ...
    @_fd.setter
    def _fd(self, fd: int) -> None: ...
    def __del__(self) -> None: ...
    def close(self) -> None: ...
    def unlink(self) -> None: ...
    def __enter__(self: _Self) -> _Self: ...
    def __exit__(
        self,
        __type: type[BaseException] | None,
        __value: BaseException | None,
        __traceback: TracebackType | None,
    ) -> None: ...
