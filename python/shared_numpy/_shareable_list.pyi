from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, overload

from typing_extensions import Never, SupportsIndex

from . import _core
from .shared_memory import SharedMemory

__all__ = ["ShareableList"]

_ItemT = TypeVar("_ItemT", bound=int | float | bool | str | bytes | None)

class ShareableList(_core.ListBase, Generic[_ItemT]):
    shm: SharedMemory
    # Attached to: what the items are is not known here.
    @overload
    def __init__(
        self: ShareableList[Any],
        sequence: None = None,
        *,
        name: str | None = None,
        track: bool | None = None,
        readonly: bool = False,
    ) -> None: ...
    @overload
    def __init__(
        self,
        sequence: Iterable[_ItemT],
        *,
        name: str | None = None,
        track: bool | None = None,
        readonly: bool = False,
    ) -> None: ...
    # For type checkers that find no common type for mixed items.
    @overload
    def __init__(
        self: ShareableList[Any],
        sequence: Iterable[int | float | bool | str | bytes | None],
        *,
        name: str | None = None,
        track: bool | None = None,
        readonly: bool = False,
    ) -> None: ...
    @overload
    def __getitem__(self, __key: SupportsIndex) -> _ItemT: ...
    @overload
    def __getitem__(self, __key: slice) -> list[_ItemT]: ...
    @overload
    def __setitem__(self, __key: SupportsIndex, __value: _ItemT) -> None: ...
    @overload
    def __setitem__(self, __key: slice, __value: Iterable[_ItemT]) -> None: ...
    # A TypeError always: the length is fixed.
    def __delitem__(self, __key: Never) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_ItemT]: ...
    def __contains__(self, value: object) -> bool: ...
    def __reversed__(self) -> Iterator[_ItemT]: ...
    @property
    def format(self) -> str: ...
    def count(self, value: object) -> int: ...
    def index(self, value: object, start: int = 0, stop: int | None = None) -> int: ...
    def __class_getitem__(cls, __item: Any) -> Any: ...
    # Not part of the interface; programs use them all the same.
    _alignment: int
    def _get_packing_format(self, position: int) -> str: ...
    def _get_back_transform(self, position: int) -> Callable[[Any], Any]: ...
    @property
    def _list_len(self) -> int: ...
    @property
    def _offset_data_start(self) -> int: ...
    @property
    def _offset_packing_formats(self) -> int: ...
    @property
    def _offset_back_transform_codes(self) -> int: ...
