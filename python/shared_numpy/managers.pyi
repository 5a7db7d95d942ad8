from multiprocessing.context import BaseContext
from multiprocessing.managers import (
    BaseManager as BaseManager,
    BaseProxy as BaseProxy,
    DictProxy as DictProxy,
    ListProxy as ListProxy,
    Namespace as Namespace,
    Server as Server,
    SyncManager as SyncManager,
    Token as Token,
    ValueProxy as ValueProxy,
)
from typing import Any, Callable, Iterable, List, Optional, TypeVar

from .shared_memory import ShareableList as _ShareableList
from .shared_memory import SharedMemory as _SharedMemory

__all__ = ["SharedMemoryManager", "SharedMemoryServer", "BaseManager", "SyncManager", "BaseProxy", "Token"]

_T = TypeVar("_T")
_M = TypeVar("_M", bound="SharedMemoryManager")

class SharedMemoryServer(Server):
    def track_segment(self, c: Any, segment_name: str) -> None: ...
    def release_segment(self, c: Any, segment_name: str) -> None: ...
    def list_segments(self, c: Any) -> List[str]: ...

class SharedMemoryManager(BaseManager):
    def __init__(
        self,
        address: Any = ...,
        authkey: Optional[bytes] = ...,
        serializer: str = ...,
        ctx: Optional[BaseContext] = ...,
        *,
        shutdown_timeout: float = ...,
    ) -> None: ...
    def __enter__(self: _M) -> _M: ...
    def get_server(self) -> SharedMemoryServer: ...
    def start(self, initializer: Optional[Callable[..., object]] = ..., initargs: Iterable[Any] = ...) -> None: ...
    def SharedMemory(self, size: int) -> _SharedMemory: ...
    def ShareableList(self, sequence: Iterable[_T]) -> _ShareableList[_T]: ...
