import multiprocessing.queues
from multiprocessing.context import BaseContext
from queue import Empty as Empty
from queue import Full as Full
from typing import TypeVar

__all__ = ["Queue", "Empty", "Full"]

_T = TypeVar("_T")

class Queue(multiprocessing.queues.Queue[_T]):
    def __init__(self, maxsize: int = 0, *, ctx: BaseContext | None = None) -> None: ...
    def put(self, obj: _T, block: bool = True, timeout: float | None = None) -> None: ...
    def get(self, block: bool = True, timeout: float | None = None) -> _T: ...
