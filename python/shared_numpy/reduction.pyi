from collections.abc import Callable
from typing import Any

from .arrays import SharedNDArray

__all__ = ["dumps_for_queue", "register", "register_reducer"]

def dumps_for_queue(obj: object) -> bytes: ...
def register(cls: type[SharedNDArray]) -> None: ...
def register_reducer(
    cls: type[Any], reduce: Callable[[Any], tuple[Any, ...]], in_queue: Callable[[Any], tuple[Any, ...]]
) -> None: ...
