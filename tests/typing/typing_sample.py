"""A program that uses the public interface as a typed one: mypy --strict has to accept it (``make lint``); it is not run.

Each line that assigns to an annotated name is a promise about a type that users see. Each ``type: ignore[...]`` is a mistake
that has to be found: where it is not, the unused comment is an error.
"""
import multiprocessing.shared_memory
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Dict, Iterator, List, Optional, Tuple, Type

import numpy as np
import numpy.typing as npt

import shared_numpy
from shared_numpy import Latest, PeerDied, Queue, SharedNDArray, managers, resource_tracker, semaphore_tracker, shared_memory
from shared_numpy.managers import SharedMemoryManager, SharedMemoryServer
from shared_numpy.queue import Empty, Full
from shared_numpy.shared_memory import ShareableList, SharedMemory


def named_segments(error: Optional[Type[BaseException]], trace: Optional[TracebackType]) -> None:
    """The drop-in class."""
    with SharedMemory(create=True, size=16) as segment:
        name: str = segment.name
        size: int = segment.size
        view: memoryview = segment.buf
        view[:4] = b"data"
        segment.buf[0] = 1
        array: "npt.NDArray[np.uint8]" = np.frombuffer(segment.buf, np.uint8)
        other = SharedMemory(name, readonly=True, track=False)
        other.close()
        segment.unlink()
        segment.__exit__(error, None, trace)
        print(size, array, segment)
    positional: SharedMemory = SharedMemory("name", True, 4096)
    kept = SharedMemory("name", create=True, size=1 << 30, track=True, mode=0o640, reserve=None)
    print(positional, kept._name, kept._fd)

    SharedMemory(size="16", create=True)  # type: ignore[arg-type]
    SharedMemory(b"name")  # type: ignore[arg-type]
    SharedMemory("name", True, 16, False)  # type: ignore[call-arg]  # `track` is given by name
    segment.size = 32  # type: ignore[misc]
    segment.buf = memoryview(b"")  # type: ignore[misc]


class Logged(SharedMemory):
    """A user's subclass."""

    def close(self) -> None:
        print("closed", self.name)
        super().close()


def subclass() -> None:
    """The context manager has the subclass's type."""
    with Logged(create=True, size=1) as logged:
        same: Logged = logged
        same.unlink()


def lists() -> None:
    """ShareableList."""
    numbers = ShareableList([1, 2, 3])
    first: int = numbers[0]
    some: List[int] = numbers[1:]
    numbers[-1] = 4
    numbers[:2] = (5, 6)
    total: int = sum(numbers)
    backwards: Iterator[int] = reversed(numbers)
    where: int = numbers.index(4, 1, 3)
    often: int = numbers.count(4)
    text: str = numbers.format
    segment: SharedMemory = numbers.shm
    print(first, some, total, list(backwards), where, often, text, 4 in numbers, len(numbers))

    mixed = ShareableList([1, 2.5, "text", b"bytes", True, None], name="list", track=True)
    mixed[2] = "other"
    attached: "ShareableList[float]" = ShareableList(name=segment.name, track=False, readonly=True)
    half: float = attached[0] / 2
    unknown = ShareableList(name="list")
    print(half, unknown[0])

    numbers[0] = "text"  # type: ignore[call-overload]
    numbers["0"]  # type: ignore[call-overload]
    del numbers[0]  # type: ignore[arg-type]  # the length is fixed
    numbers.append(1)  # type: ignore[attr-defined]
    ShareableList([object()])  # type: ignore[type-var]
    wrong: str = numbers[0]  # type: ignore[assignment]
    print(wrong)


def with_manager(context: BaseContext) -> None:
    """SharedMemoryManager, and what the standard module offers beside it."""
    with SharedMemoryManager(ctx=context, shutdown_timeout=5) as manager:
        same: SharedMemoryManager = manager
        segment: SharedMemory = same.SharedMemory(128)
        numbers: "ShareableList[int]" = same.ShareableList(range(5))
        print(segment.name, numbers[0], same.address)
    manager = SharedMemoryManager(("127.0.0.1", 0), authkey=b"key")
    manager.start(print, ("started",))
    server: SharedMemoryServer = SharedMemoryManager().get_server()
    base: managers.BaseManager = managers.SyncManager()
    print(server.list_segments(None), base)

    manager.SharedMemory(name="x", size=1)  # type: ignore[call-arg]
    manager.ShareableList([object()])  # type: ignore[type-var]


def installing() -> None:
    """In this process; for an environment there is the command."""
    shared_numpy.install()
    shared_numpy.install(replace=True)
    was_installed: bool = shared_numpy.uninstall()
    version: str = shared_numpy.__version__
    print(was_installed, version)
    # After it, this is our class; for type checkers it stays the standard library's.
    standard: multiprocessing.shared_memory.SharedMemory = multiprocessing.shared_memory.SharedMemory("name")
    standard.close()

    shared_numpy.install(force=True)  # type: ignore[call-arg]
    print(shared_numpy.install())  # type: ignore[func-returns-value]


def tracking() -> None:
    """The trackers' faces."""
    resource_tracker.ensure_running()
    resource_tracker.register("/name", "shared_memory")
    resource_tracker.unregister("/name", "shared_memory")
    fd: int = resource_tracker.getfd()
    private = resource_tracker.ResourceTracker()
    pid: Optional[int] = private._pid
    semaphore_tracker.register("/name")
    semaphore_tracker.unregister("/name")
    print(fd, pid)

    resource_tracker.register("/name")  # type: ignore[call-arg]
    semaphore_tracker.register("/name", "semaphore")  # type: ignore[call-arg]


def arrays() -> None:
    """Making arrays: the dtype is known where it is given as a type, or by another array."""
    frame: "SharedNDArray[Any, np.dtype[np.float32]]" = shared_numpy.ndarray((3, 4), dtype=np.float32, order="F")
    plain: "SharedNDArray[Any, np.dtype[np.float64]]" = shared_numpy.zeros(3)
    named: SharedNDArray = shared_numpy.empty([3, 4], "i4")
    ones: "SharedNDArray[Any, np.dtype[np.uint8]]" = shared_numpy.ones((), np.dtype(np.uint8))
    filled: SharedNDArray = shared_numpy.full((2, 2), 1.5)
    copied: "SharedNDArray[Any, np.dtype[np.float32]]" = shared_numpy.array(frame, copy=None, order="K", ndmin=3)
    converted: "SharedNDArray[Any, np.dtype[np.int16]]" = shared_numpy.array([[1, 2], [3, 4]], np.int16)
    again: "SharedNDArray[Any, np.dtype[np.float32]]" = shared_numpy.from_array(frame)
    alike: "SharedNDArray[Any, np.dtype[np.float32]]" = shared_numpy.zeros_like(frame)
    other: "SharedNDArray[Any, np.dtype[np.int8]]" = shared_numpy.empty_like(frame, dtype=np.int8, shape=(1,))
    shared_numpy.ones_like(plain, order="A")
    shared_numpy.full_like([1, 2], 7, "f8", subok=False)
    direct: SharedNDArray = SharedNDArray((3,), np.int8)
    print(named, ones, filled, copied, converted, again, alike, other, direct)

    shared_numpy.zeros((3,), order="K")  # type: ignore[call-overload]
    shared_numpy.zeros("3")  # type: ignore[arg-type]
    shared_numpy.array([1], order="X")  # type: ignore[call-overload]
    wrong: "SharedNDArray[Any, np.dtype[np.int8]]" = frame  # type: ignore[assignment]
    print(wrong)


def named_arrays() -> None:
    """Arrays that unrelated programs open by name."""
    frame: "SharedNDArray[Any, np.dtype[np.uint8]]" = shared_numpy.ndarray(
        (3, 4), np.uint8, name="camera0", persist=True, mode=0o640)
    view: "SharedNDArray[Any, np.dtype[Any]]" = shared_numpy.attach("camera0", readonly=True)
    shared_numpy.attach("camera0", True, owner=1000)
    shared_numpy.unlink("camera0", owner=None)
    print(frame, view)

    shared_numpy.ndarray(3, name=b"camera0")  # type: ignore[call-overload]
    shared_numpy.attach("camera0", False, 1000)  # type: ignore[call-arg]  # `owner` is given by name
    shared_numpy.unlink(7)  # type: ignore[arg-type]


def views(frame: "SharedNDArray[Any, np.dtype[np.float32]]", mask: "npt.NDArray[np.bool_]") -> None:
    """What is a view is of the type; what has memory of its own is an ordinary array."""
    segment: SharedMemory = frame.shm
    part: "SharedNDArray[Any, np.dtype[np.float32]]" = frame[1:, ..., None]
    turned: SharedNDArray = frame.T
    turned = frame.transpose(1, 0)
    turned = frame.swapaxes(0, 1)
    thin: SharedNDArray = frame.squeeze()
    same: "SharedNDArray[Any, np.dtype[np.float32]]" = frame.view()
    bits: "SharedNDArray[Any, np.dtype[np.int32]]" = frame.view(np.int32)
    ordinary: "npt.NDArray[np.float32]" = frame.view(np.ndarray)
    frame[0] = 1.0
    frame += 1
    anything: "npt.NDArray[Any]" = frame
    mean: np.floating[Any] = np.mean(frame)
    print(segment.name, part, turned, thin, same, bits, ordinary, anything, mean)
    frame.close()
    frame.unlink()

    (frame + 1).unlink()  # type: ignore[attr-defined]
    (-frame).unlink()  # type: ignore[attr-defined]
    frame.copy().shm  # type: ignore[attr-defined]
    frame[[0, 1]].shm  # type: ignore[attr-defined]
    frame[mask].shm  # type: ignore[attr-defined]
    frame.astype(np.int8).shm  # type: ignore[attr-defined]


def queues(context: BaseContext, frame: "SharedNDArray[Any, np.dtype[np.float32]]") -> None:
    """The queue knows what it carries."""
    queue: "Queue[SharedNDArray]" = Queue(maxsize=2)
    queue.put(frame, timeout=1.5)
    try:
        received: SharedNDArray = queue.get(block=False)
        queue.put_nowait(received)
    except (Empty, Full):
        pass
    records: "Queue[Dict[str, SharedNDArray]]" = Queue()
    records.put({"frame": frame}, False)
    record = records.get_nowait()["frame"]
    size: int = records.qsize()
    idle: bool = records.empty() or records.full()
    records.close()
    records.join_thread()
    records.cancel_join_thread()
    print(record.shm, size, idle)

    queue.put(b"bytes")  # type: ignore[arg-type]
    queue.get(timeout="1")  # type: ignore[arg-type]
    Queue(2, context)  # type: ignore[call-arg]  # no context is needed


def latest(frame: "SharedNDArray[Any, np.dtype[np.float32]]") -> None:
    """A channel knows the dtype of its frames."""
    channel: "Latest[np.dtype[np.float32]]" = Latest(frame.shape, np.float32)
    doubles: "Latest[np.dtype[np.float64]]" = Latest(3)
    image: "Latest[np.dtype[Any]]" = Latest((1080, 1920, 3), "u1")
    same: "Latest[np.dtype[np.uint8]]" = Latest([2, 2], dtype=np.dtype(np.uint8))
    with channel.writing() as writer:
        to_fill: "SharedNDArray[Any, np.dtype[np.float32]]" = writer.next_frame()
        number: int = channel.publish(to_fill)
        channel.publish([[1.0, 2.0]])
    channel.become_writer()
    channel.stop_writing()
    newest: "Optional[SharedNDArray[Any, np.dtype[np.float32]]]" = channel.read()
    try:
        frame = channel.read_next(timeout=0.5)
        number, frame = channel.wait(after=number, timeout=None)
        for frame in channel:
            print(frame, channel.number, channel.last_read, channel.has_writer)
    except (TimeoutError, PeerDied):
        pass
    shape: Tuple[int, ...] = channel.shape
    dtype: "np.dtype[np.float32]" = channel.dtype
    print(doubles, image, same, newest, shape, dtype)

    Latest("3")  # type: ignore[arg-type]
    channel.read_next("soon")  # type: ignore[arg-type]
    channel.read().mean()  # type: ignore[union-attr]  # there may be none yet
    channel.number = 3  # type: ignore[misc]


def whole_module() -> None:
    """The modules are attributes of the package."""
    segment: shared_numpy.shared_memory.SharedMemory = shared_memory.SharedMemory("name")
    segment.close()
    shared_numpy.nothing  # type: ignore[attr-defined]
