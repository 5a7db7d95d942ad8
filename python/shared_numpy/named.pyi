from typing import Any

import numpy as np

from .arrays import SharedNDArray

__all__ = ["attach", "unlink"]

def attach(
    name: str, readonly: bool = False, *, owner: int | None = None
) -> SharedNDArray[tuple[Any, ...], np.dtype[Any]]: ...
def unlink(name: str, *, owner: int | None = None) -> None: ...

# Not for users: what `array` and `reduction` call.
def create(
    shape: Any, dtype: Any, order: str, name: str, persist: bool, mode: int | None
) -> SharedNDArray[tuple[Any, ...], np.dtype[Any]]: ...
def reduce(a: np.ndarray[Any, Any]) -> tuple[Any, ...] | None: ...
