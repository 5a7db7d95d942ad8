from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext
from multiprocessing.managers import (
    BaseManager as BaseManager,
    BaseProxy as BaseProxy,
    DictProxy as DictProxy,
    ListProxy as ListProxy,
    Namespace as Namespace,
    RemoteError as RemoteError,
    Server as Server,
    SyncManager as SyncManager,
    Token as Token,
    ValueProxy as ValueProxy,
)
from typing import Any, TypeVar, overload

from .shared_memory import ShareableList as _ShareableList
from .shared_memory import SharedMemory as _SharedMemory

__all__ = ["SharedMemoryManager", "SharedMemoryServer", "BaseManager", "SyncManager", "BaseProxy", "Token"]

_ItemT = TypeVar("_ItemT", bound=int | float | bool | str | bytes | None)

class SharedMemoryServer(Server):
    def track_segment(self, c: Any, segment_name: str) -> None: ...
    def release_segment(self, c: Any, segment_name: str) -> None: ...
    def list_segments(self, c: Any) -> list[str]: ...

class SharedMemoryManager(BaseManager):
    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: BaseContext | None = None,
        *,
        shutdown_timeout: float = 1.0,
    ) -> None: ...
    def get_server(self) -> SharedMemoryServer: ...
    def start(self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()) -> None: ...
    def SharedMemory(self, size: int) -> _SharedMemory: ...
    @overload
    def ShareableList(self, sequence: Iterable[_ItemT]) -> _ShareableList[_ItemT]: ...
    # For type checkers that find no common type for mixed items.
    @overload
    def ShareableList(  # type: ignore[overload-cannot-match]
        self, sequence: Iterable[int | float | bool | str | bytes | None]
    ) -> _ShareableList[Any]: ...
