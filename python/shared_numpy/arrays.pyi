import sys
from collections.abc import Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from typing_extensions import Literal, SupportsIndex, TypeAlias
from typing_extensions import TypeVar as _TypeVarWithDefault

from .shared_memory import SharedMemory

if sys.version_info >= (3, 10):
    from types import EllipsisType
else:
    from builtins import ellipsis as EllipsisType

__all__ = [
    "SharedNDArray", "array", "ndarray", "from_array", "zeros", "empty", "ones",
    "full", "zeros_like", "empty_like", "ones_like", "full_like",
]

_Self = TypeVar("_Self", bound="SharedNDArray")
_ScalarT = TypeVar("_ScalarT", bound=np.generic)
_ArrayT = TypeVar("_ArrayT", bound=np.ndarray[Any, Any])
# As numpy has them; "any shape" is `tuple[Any, ...]`, because of plain `Any` too many overloads fit.
_AnyShape: TypeAlias = tuple[Any, ...]
_ShapeT_co = _TypeVarWithDefault("_ShapeT_co", bound=_AnyShape, default=_AnyShape, covariant=True)
_DTypeT_co = _TypeVarWithDefault("_DTypeT_co", bound=np.dtype[Any], default=np.dtype[Any], covariant=True)

_Shape: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
# What says the type of the scalars.
_DTypeOf: TypeAlias = type[_ScalarT] | np.dtype[_ScalarT]
_ArrayOf: TypeAlias = np.ndarray[Any, np.dtype[_ScalarT]]
_Order: TypeAlias = Literal["K", "A", "C", "F"] | None
_OrderCF: TypeAlias = Literal["C", "F"] | None
_Positions: TypeAlias = np.ndarray[Any, np.dtype[np.integer[Any] | np.bool_]]
_Part: TypeAlias = SupportsIndex | slice | EllipsisType | None

# As numpy's, this class has two parameters: the type of the shape, and that of the dtype. Both may be left out.
class SharedNDArray(np.ndarray[_ShapeT_co, _DTypeT_co]):
    def __new__(cls: type[_Self], shape: _Shape, dtype: DTypeLike = ..., order: _OrderCF = None) -> _Self: ...
    @property
    def shm(self) -> SharedMemory: ...
    def close(self) -> None: ...
    def unlink(self) -> None: ...

    # A function of the extension module, which is not bound.
    @staticmethod
    def __array_wrap__(array: Any, context: object = None, return_scalar: object = None) -> Any: ...

    # numpy's stubs do not know which results are views, and so of this type, and which have memory of their own.
    @overload  # type: ignore[override]
    def __getitem__(self, __key: _Positions) -> np.ndarray[_AnyShape, _DTypeT_co]: ...  # type: ignore[overload-overlap]
    @overload
    def __getitem__(self, __key: SupportsIndex | tuple[SupportsIndex, ...]) -> Any: ...
    @overload
    def __getitem__(self, __key: _Part | tuple[_Part, ...]) -> SharedNDArray[_AnyShape, _DTypeT_co]: ...
    @overload
    def __getitem__(self, __key: str) -> SharedNDArray[_AnyShape, np.dtype[Any]]: ...
    @overload
    def __getitem__(self, __key: list[str]) -> SharedNDArray[_AnyShape, np.dtype[np.void]]: ...
    @overload
    def __getitem__(self, __key: ArrayLike | tuple[ArrayLike | _Part, ...]) -> np.ndarray[_AnyShape, _DTypeT_co]: ...
    @overload  # type: ignore[override]
    def view(self: _Self) -> _Self: ...
    @overload
    def view(self, dtype: type[_ArrayT]) -> _ArrayT: ...  # type: ignore[overload-overlap]
    @overload
    def view(self, *, type: type[_ArrayT]) -> _ArrayT: ...
    @overload
    def view(self, dtype: _DTypeOf[_ScalarT]) -> SharedNDArray[_ShapeT_co, np.dtype[_ScalarT]]: ...
    @overload
    def view(self, dtype: DTypeLike) -> SharedNDArray[_ShapeT_co, np.dtype[Any]]: ...
    @overload
    def view(self, dtype: DTypeLike, type: type[_ArrayT]) -> _ArrayT: ...
    def squeeze(self, axis: SupportsIndex | tuple[SupportsIndex, ...] | None = ...) -> SharedNDArray[_AnyShape, _DTypeT_co]: ...
    def swapaxes(self: _Self, __axis1: SupportsIndex, __axis2: SupportsIndex) -> _Self: ...
    def copy(self, order: _Order = ...) -> np.ndarray[_ShapeT_co, _DTypeT_co]: ...  # type: ignore[override]
    def __copy__(self) -> np.ndarray[_ShapeT_co, _DTypeT_co]: ...  # type: ignore[override]
    def __deepcopy__(self, __memo: dict[int, Any] | None) -> np.ndarray[_ShapeT_co, _DTypeT_co]: ...  # type: ignore[override]
    def __neg__(self) -> np.ndarray[_ShapeT_co, _DTypeT_co]: ...  # type: ignore[override]
    def __pos__(self) -> np.ndarray[_ShapeT_co, _DTypeT_co]: ...  # type: ignore[override]
    def __invert__(self) -> np.ndarray[_ShapeT_co, _DTypeT_co]: ...  # type: ignore[override]
    def __abs__(self) -> np.ndarray[_ShapeT_co, np.dtype[Any]]: ...  # type: ignore[override]
    # In place: the object stays what it is, which the stubs of older numpy deny.
    def __iadd__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __isub__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __imul__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __itruediv__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __ifloordiv__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __imod__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __ipow__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __ilshift__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __irshift__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __iand__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __ixor__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __ior__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]
    def __imatmul__(self: _Self, __other: ArrayLike) -> _Self: ...  # type: ignore[override,misc]

_Shared: TypeAlias = SharedNDArray[_AnyShape, np.dtype[Any]]
_SharedOf: TypeAlias = SharedNDArray[_AnyShape, np.dtype[_ScalarT]]

@overload
def array(
    object: _ArrayOf[_ScalarT], dtype: None = None, copy: bool | None = True,
    order: _Order = "K", subok: bool = False, ndmin: int = 0,
) -> _SharedOf[_ScalarT]: ...
@overload
def array(
    object: ArrayLike, dtype: _DTypeOf[_ScalarT], copy: bool | None = True,
    order: _Order = "K", subok: bool = False, ndmin: int = 0,
) -> _SharedOf[_ScalarT]: ...
@overload
def array(
    object: ArrayLike, dtype: DTypeLike | None = None, copy: bool | None = True,
    order: _Order = "K", subok: bool = False, ndmin: int = 0,
) -> _Shared: ...

@overload
def from_array(a: _ArrayOf[_ScalarT]) -> _SharedOf[_ScalarT]: ...
@overload
def from_array(a: ArrayLike) -> _Shared: ...

@overload
def ndarray(
    shape: _Shape, dtype: _DTypeOf[_ScalarT], order: _OrderCF = None,
    *, name: str | None = None, persist: bool = False, mode: int | None = None,
) -> _SharedOf[_ScalarT]: ...
@overload
def ndarray(
    shape: _Shape, dtype: type[float] | None = None, order: _OrderCF = None,
    *, name: str | None = None, persist: bool = False, mode: int | None = None,
) -> _SharedOf[np.float64]: ...
@overload
def ndarray(
    shape: _Shape, dtype: DTypeLike | None = None, order: _OrderCF = None,
    *, name: str | None = None, persist: bool = False, mode: int | None = None,
) -> _Shared: ...

@overload
def empty(shape: _Shape, dtype: _DTypeOf[_ScalarT], order: _OrderCF = "C") -> _SharedOf[_ScalarT]: ...
@overload
def empty(shape: _Shape, dtype: type[float] | None = None, order: _OrderCF = "C") -> _SharedOf[np.float64]: ...
@overload
def empty(shape: _Shape, dtype: DTypeLike | None = None, order: _OrderCF = "C") -> _Shared: ...

@overload
def zeros(shape: _Shape, dtype: _DTypeOf[_ScalarT], order: _OrderCF = "C") -> _SharedOf[_ScalarT]: ...
@overload
def zeros(shape: _Shape, dtype: type[float] | None = None, order: _OrderCF = "C") -> _SharedOf[np.float64]: ...
@overload
def zeros(shape: _Shape, dtype: DTypeLike | None = None, order: _OrderCF = "C") -> _Shared: ...

@overload
def ones(shape: _Shape, dtype: _DTypeOf[_ScalarT], order: _OrderCF = "C") -> _SharedOf[_ScalarT]: ...
@overload
def ones(shape: _Shape, dtype: type[float] | None = None, order: _OrderCF = "C") -> _SharedOf[np.float64]: ...
@overload
def ones(shape: _Shape, dtype: DTypeLike | None = None, order: _OrderCF = "C") -> _Shared: ...

@overload
def full(shape: _Shape, fill_value: _ScalarT, dtype: None = None, order: _OrderCF = "C") -> _SharedOf[_ScalarT]: ...
@overload
def full(shape: _Shape, fill_value: Any, dtype: _DTypeOf[_ScalarT], order: _OrderCF = "C") -> _SharedOf[_ScalarT]: ...
@overload
def full(shape: _Shape, fill_value: Any, dtype: DTypeLike | None = None, order: _OrderCF = "C") -> _Shared: ...

@overload
def empty_like(
    prototype: _ArrayOf[_ScalarT], dtype: None = None, order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _SharedOf[_ScalarT]: ...
@overload
def empty_like(
    prototype: ArrayLike, dtype: _DTypeOf[_ScalarT], order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _SharedOf[_ScalarT]: ...
@overload
def empty_like(
    prototype: ArrayLike, dtype: DTypeLike | None = None, order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _Shared: ...

@overload
def zeros_like(
    a: _ArrayOf[_ScalarT], dtype: None = None, order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _SharedOf[_ScalarT]: ...
@overload
def zeros_like(
    a: ArrayLike, dtype: _DTypeOf[_ScalarT], order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _SharedOf[_ScalarT]: ...
@overload
def zeros_like(
    a: ArrayLike, dtype: DTypeLike | None = None, order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _Shared: ...

@overload
def ones_like(
    a: _ArrayOf[_ScalarT], dtype: None = None, order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _SharedOf[_ScalarT]: ...
@overload
def ones_like(
    a: ArrayLike, dtype: _DTypeOf[_ScalarT], order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _SharedOf[_ScalarT]: ...
@overload
def ones_like(
    a: ArrayLike, dtype: DTypeLike | None = None, order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _Shared: ...

@overload
def full_like(
    a: _ArrayOf[_ScalarT], fill_value: Any, dtype: None = None,
    order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _SharedOf[_ScalarT]: ...
@overload
def full_like(
    a: ArrayLike, fill_value: Any, dtype: _DTypeOf[_ScalarT],
    order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _SharedOf[_ScalarT]: ...
@overload
def full_like(
    a: ArrayLike, fill_value: Any, dtype: DTypeLike | None = None,
    order: _Order = "K", subok: bool = True, shape: _Shape | None = None,
) -> _Shared: ...
