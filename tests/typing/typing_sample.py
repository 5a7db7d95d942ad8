"""A program that uses the public interface as a typed one: mypy --strict has to accept it (``make lint``); it is not run.

Each line that assigns to an annotated name is a promise about a type that users see.
"""
import shared_numpy as snp
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


def arrays() -> None:
    """Arrays and the queue."""
    frame: snp.SharedNDArray = snp.ndarray((3, 4), dtype="float32", order="F")
    frame[:] = 7
    copied: snp.SharedNDArray = snp.array([[1, 2], [3, 4]], dtype="i4", ndmin=3)
    name: str = snp.from_array(copied).shm.name
    queue: "snp.Queue[snp.SharedNDArray]" = snp.Queue(maxsize=2)
    queue.put(snp.zeros_like(frame), timeout=1.5)
    received: snp.SharedNDArray = queue.get()
    received.close()
    received.unlink()
    print(name, snp.full(3, 1.5).mean())
