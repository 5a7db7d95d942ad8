from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue as _Queue
from queue import Empty, Full
from typing import Optional, TypeVar

__all__ = ["Queue", "Empty", "Full"]

_T = TypeVar("_T")

class Queue(_Queue[_T]):
    def __init__(self, maxsize: int = ..., *, ctx: Optional[BaseContext] = ...) -> None: ...
    def put(self, obj: _T, block: bool = ..., timeout: Optional[float] = ...) -> None: ...
    def get(self, block: bool = ..., timeout: Optional[float] = ...) -> _T: ...
