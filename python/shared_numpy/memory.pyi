from typing import Any

from ._core import ForeignHandle as ForeignHandle
from ._core import StaleHandle as StaleHandle
from ._core import TrackerUnavailable as TrackerUnavailable

__all__ = ["stats", "trim", "drop_inherited", "StaleHandle", "ForeignHandle", "TrackerUnavailable"]

def stats() -> dict[str, Any]: ...
def trim(in_flight: bool = False) -> int: ...
def drop_inherited() -> int: ...
