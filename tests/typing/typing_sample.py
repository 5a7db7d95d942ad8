"""A program that uses the public interface as a typed one: mypy --strict has to accept it (``make lint``); it is not run.

Each line that assigns to an annotated name is a promise about a type that users see.
"""
from shared_numpy import shared_memory


def named_segments() -> None:
    """The drop-in class."""
    with shared_memory.SharedMemory(create=True, size=16) as segment:
        name: str = segment.name
        size: int = segment.size
        view: memoryview = segment.buf
        view[:4] = b"data"
        other = shared_memory.SharedMemory(name, readonly=True, track=False)
        other.close()
        segment.unlink()
        print(size)
