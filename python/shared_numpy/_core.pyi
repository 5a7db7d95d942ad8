"""The extension module. Private: what it offers to users has its face in the other modules.

Names are given with or without their leading slash, as text or as bytes; an identity is the pair (device, inode) of a file,
(0, 0) where it is not known; sizes and offsets are in bytes.
"""
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any, TypeVar

import numpy as np
from typing_extensions import Literal, Never, Self, TypeAlias, disjoint_base, final

__all__ = [
    "AbandonedLock",
    "BarrierCell",
    "Bell",
    "ConditionCell",
    "EventCell",
    "Exporter",
    "ForeignHandle",
    "IntegerCell",
    "LatestCell",
    "ListBase",
    "NamedArray",
    "PeerDied",
    "Queue",
    "QueueTools",
    "SEM_VALUE_MAX",
    "SemLock",
    "StaleHandle",
    "Tracker",
    "TrackerUnavailable",
    "UnknownFamily",
    "__version__",
    "array_is_dropped",
    "array_maker",
    "array_memory",
    "array_name",
    "array_open",
    "array_prepare",
    "array_send",
    "array_type",
    "array_unwrap",
    "block_create",
    "configure_family",
    "drop_inherited",
    "family_address",
    "join_family",
    "leave_queues",
    "list_code",
    "list_fill",
    "list_format",
    "list_formats",
    "list_open",
    "list_parts",
    "list_size",
    "lock_methods",
    "named_attach",
    "named_claim",
    "named_fill",
    "named_open",
    "named_place",
    "named_unlink",
    "queue_add_buffer",
    "queue_array",
    "queue_handle",
    "queue_is_alone",
    "queue_keep",
    "queue_methods",
    "queue_open_place",
    "queue_pass_on_ring",
    "queue_place",
    "queue_reduce",
    "queue_ring_for_items",
    "queue_ring_for_room",
    "segment_attach",
    "segment_create",
    "segment_remove",
    "segment_reopen",
    "segment_unlink",
    "shm_open",
    "shm_unlink",
    "stats",
    "tracker",
    "trim",
]

_T = TypeVar("_T")
_MakerT = TypeVar("_MakerT", bound=Callable[..., Any])
# A family as Python has it: 16 bytes of identity, 16 bytes that its members prove themselves with.
_Address: TypeAlias = tuple[bytes, bytes]
_Name: TypeAlias = str | bytes | PathLike[str] | PathLike[bytes]
_Identity: TypeAlias = tuple[int, int]
# What a call learned about the tracker; the reason is given with "unavailable".
_News: TypeAlias = (
    tuple[Literal["launched", "joined", "relaunched", "rejoined", "unavailable", "unconfigured"], str | None] | None
)

__version__: str

@final
class Exporter:
    """Shared memory as a buffer; let go when this object and all views of it are gone.

    It cannot be made from Python.
    """

    def __buffer__(self, __flags: int) -> memoryview: ...
    def __len__(self) -> int: ...
    def size(self) -> int:
        """The size in bytes."""

    def flush(self) -> None:
        """Nothing to do: the memory has no file on a disk."""

    def close(self) -> None:
        """Nothing to do: the memory is let go with its last view."""

# --- Named segments ---

def segment_create(name: _Name, size: int, mode: int, reserve: bool | None) -> tuple[Exporter, _Identity]:
    """Creates a segment of `size` zero bytes and maps it. FileExistsError, ENOSPC and ValueError as `SharedMemory`."""

def segment_attach(name: _Name, flags: int, mode: int, readonly: bool) -> tuple[Exporter, _Identity]:
    """Opens a segment with the flags of `os.open` and maps it. FileNotFoundError, PermissionError, ValueError."""

def segment_reopen(name: _Name, identity: _Identity, readonly: bool) -> int:
    """A new descriptor of a segment's file, the caller's to close. OSError if the name leads elsewhere by now."""

def segment_remove(name: _Name, identity: _Identity, check: bool) -> bool:
    """Removes a name and tells the tracker; False when the caller still has to tell it.

    With `check` only if it leads to `identity`; another segment's name counts as gone.
    """

def segment_unlink(name: _Name, identity: _Identity | None = None) -> None:
    """Removes a name. FileNotFoundError if there is none, or if it does not lead to `identity`."""

# --- The items of a ShareableList ---

@disjoint_base
class ListBase:
    """The items of a `ShareableList`; see `list_fill` and `list_open`."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __getitem__(self, __key: Any) -> Any: ...
    def __setitem__(self, __key: Any, __value: Any) -> None: ...
    def __delitem__(self, __key: Never) -> None:
        """TypeError: the length is fixed."""

def list_size(values: tuple[Any, ...]) -> int:
    """The size of the segment for a list of `values`. TypeError, OverflowError, ValueError for a value that cannot be stored."""

def list_fill(base: ListBase, memory: Exporter, values: tuple[Any, ...]) -> None:
    """Makes a list of `values` in fresh memory, for `base`."""

def list_open(base: ListBase, memory: Exporter) -> None:
    """Finds the list in `memory`, for `base`. ValueError if there is none, or a damaged one."""

def list_format(base: ListBase, index: int) -> str:
    """The `struct` format of one item."""

def list_formats(base: ListBase) -> str:
    """The `struct` formats of all items, one after the other."""

def list_code(base: ListBase, index: int) -> int:
    """The recorded code of one item: how bytes become its value."""

def list_parts(base: ListBase) -> tuple[int, int, int]:
    """Where slots, formats and codes begin, from the start of the segment."""

# --- The memory of arrays ---

class StaleHandle(LookupError):
    """The memory that a handle names was given back before the handle arrived."""

class ForeignHandle(LookupError):
    """A handle of a program, or of a machine, that this process does not belong to."""

class UnknownFamily(ForeignHandle):
    """A handle of a program that this process does not belong to yet: `join_family`, and open it again."""

class TrackerUnavailable(RuntimeError):
    """The tracker, without which this cannot be done, cannot be started or reached."""

class PeerDied(EOFError):
    """Whoever was waited for has died, and nobody is left to take its place."""

def block_create(nbytes: int, zeroed: bool) -> Exporter:
    """Memory of `nbytes` bytes: zero, or what its last user left. MemoryError, OSError."""

def array_maker(slow: _MakerT) -> _MakerT:
    """The function in C that stands for `slow`, which is called for arguments that are not plain; by its name."""

def array_send(array: np.ndarray[Any, Any]) -> bytes | None:
    """A handle of an array, which holds its memory until it is received; None when that is not a block's."""

def array_is_dropped(array: np.ndarray[Any, Any]) -> bool:
    """Whether an array lies in memory that `drop_inherited` has let go of."""

def array_name(array: np.ndarray[Any, Any]) -> str | None:
    """A name for an array, which `array_open` takes; it holds nothing. None when that is not a block's."""

def array_memory(array: np.ndarray[Any, Any]) -> Exporter | None:
    """The memory of an array; None when that is not a block's."""

def array_open(handle: bytes | str, itemsize: int) -> tuple[Exporter, int, tuple[int, ...], tuple[int, ...]]:
    """What a handle or a name leads to: memory, and offset, shape and strides of a view inside it.

    StaleHandle, ForeignHandle, UnknownFamily, TrackerUnavailable; ValueError for bytes that make no sense.
    """

def array_type(ndarray: type[np.ndarray[Any, Any]]) -> Any:
    """The type `SharedNDArray`, without its Python methods; the same one at each call."""

def array_unwrap(array: Any, context: object = None, return_scalar: object = None) -> Any:
    """A result of NumPy's as it would be for plain operands: as it is, or a scalar."""

def array_prepare(array: _T, context: object = None) -> _T:
    """The array, as it is."""

# --- Named arrays ---

@final
class NamedArray:
    """The named array behind an array. It cannot be made from Python."""

    @property
    def name(self) -> str:
        """The name, with its slash."""

    @property
    def identity(self) -> _Identity: ...
    @property
    def nbytes(self) -> int:
        """The size of the array."""

    @property
    def readonly(self) -> bool:
        """Whether it was opened without the right to write."""

    def publish(self) -> bool:
        """Whether the name still leads to this array."""

    def unlink(self) -> bool:
        """Removes the name; False when that was done before. The tracker is the caller's to tell."""

    def exporter(self) -> memoryview:
        """The array's bytes as a buffer that keeps the memory, but not this object."""

def named_claim(name: _Name) -> _Identity:
    """Makes a free name, for `named_fill`. FileExistsError."""

def named_fill(
    name: _Name, identity: _Identity, mode: int, shape: tuple[int, ...], itemsize: int, fortran: bool, dtype: bytes
) -> tuple[Exporter, int]:
    """Makes an array of zero bytes under a claimed name: its memory, and where in it the data begins. ENOSPC."""

def named_attach(
    name: _Name, readonly: bool, owner: int | None
) -> tuple[Exporter, int, list[int], int, bool, bytes]:
    """Opens a named array: memory, where the data begins, shape, item size, whether in Fortran order, the dtype's text."""

def named_open(
    name: _Name, identity: _Identity, readonly: bool, offset: int, axes: list[tuple[int, int]], itemsize: int
) -> tuple[Exporter, int]:
    """Opens the very file for a view of the array: its memory, and where in it the view begins. ValueError if outside."""

def named_place(array: np.ndarray[Any, Any], itemsize: int) -> tuple[NamedArray, int] | None:
    """The named array behind an array and the offset of its element at index 0 in the data; None for any other array."""

def named_unlink(name: _Name, owner: int | None) -> _Identity:
    """Removes the name of a named array. ValueError for another segment."""

# --- Locks and their kin ---

SEM_VALUE_MAX: int

class AbandonedLock(RuntimeError):
    """A process died that had the lock: what the lock guards may be half done."""

@disjoint_base
class SemLock:
    """The base of locks (kind 0), re-entrant ones (1), semaphores (2), bounded ones (3).

    `lock_methods` gives its subclasses the rest.
    """

    def __new__(cls, *_args: object, **_kwargs: object) -> Self: ...
    def _make(self, kind: int, value: int, raises: bool = False) -> None:
        """Makes it a new one."""

    def _open(self, handle: bytes, kind: int, raises: bool) -> None:
        """Makes it the one that a handle leads to. RuntimeError for a handle of something else; as `array_open`."""

    def _send(self) -> bytes:
        """A handle, which holds the memory until it is received."""

    def _acquire_abandoned(self, block: object = True, timeout: float | None = None) -> bool:
        """As `acquire`, without an exception for what a dead process had."""

    def _is_mine(self) -> bool: ...
    def _is_zero(self) -> bool: ...
    def _count(self) -> int: ...
    def _get_value(self) -> int: ...
    @property
    def _bound(self) -> int: ...
    @property
    def _raises(self) -> bool: ...
    def _is_abandoned(self) -> bool:
        """Whether an owner died, and nobody has released it since."""

def lock_methods(ty: type[SemLock]) -> None:
    """Gives a subclass `acquire`, `release`, `__enter__` and `__exit__`, in C."""

@final
class ConditionCell:
    """The places where threads wait for a notify."""

    def __new__(cls, places: int) -> ConditionCell: ...
    @staticmethod
    def open(handle: bytes) -> ConditionCell: ...
    def send(self) -> bytes: ...
    def waiting(self) -> int:
        """How many wait and are not notified."""

    def wait(self, lock: SemLock, timeout: float | None = None) -> bool:
        """Lets go of the lock, waits, acquires it again; whether notified."""

    def notify(self, count: int) -> int:
        """Tells up to `count` of those who wait; how many."""

@final
class EventCell:
    """A flag to wait for."""

    def __new__(cls) -> EventCell: ...
    @staticmethod
    def open(handle: bytes) -> EventCell: ...
    def send(self) -> bytes: ...
    def is_set(self) -> bool: ...
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is set; whether it was in time."""

@final
class BarrierCell:
    """A number of parties that wait for one another."""

    def __new__(cls, parties: int) -> BarrierCell: ...
    @staticmethod
    def open(handle: bytes) -> BarrierCell: ...
    def send(self) -> bytes: ...
    @property
    def parties(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def broken(self) -> bool: ...
    def wait(self, timeout: float | None, action: Callable[[], object] | None) -> int | None:
        """How many had arrived before, when all have; None when it broke."""

    def abort(self) -> None: ...
    def reset(self) -> None: ...

@final
class IntegerCell:
    """An integer of 64 bits."""

    def __new__(cls, value: int) -> IntegerCell: ...
    @staticmethod
    def open(handle: bytes) -> IntegerCell: ...
    def send(self) -> bytes: ...
    def load(self) -> int: ...
    def store(self, value: int) -> None: ...
    def exchange(self, value: int) -> int: ...
    def add(self, delta: int = 1) -> int:
        """The sum. OverflowError, and nothing done, beyond 64 bits."""

    def compare_exchange(self, expected: int, value: int) -> bool: ...

# --- Queues ---

@final
class QueueTools:
    """What a queue needs of Python: functions that pickle, unpickle and copy an array, and exceptions."""

    def __new__(
        cls,
        dumps: Callable[[object], bytes],
        loads: Callable[..., object],
        copy: Callable[[Any], object],
        empty: type[Exception],
        full: type[Exception],
    ) -> QueueTools: ...

@disjoint_base
class Queue:
    """A queue in shared memory; what Python's classes are derived from."""

    def __new__(cls, *args: object, **keywords: object) -> Queue: ...
    def _create(self, maxsize: int, tools: QueueTools) -> None:
        """Makes a new queue of this object; 0: no limit."""

    def _open(self, handle: bytes | str, tools: QueueTools) -> None:
        """Makes this object the queue that a handle leads to."""

    def _send(self) -> bytes:
        """A handle, which holds the queue until somebody receives it."""

    @property
    def maxsize(self) -> int: ...
    def put(self, obj: object, block: bool = True, timeout: float | None = None) -> None: ...
    def put_nowait(self, obj: object) -> None: ...
    def put_many(self, objects: Iterable[object], block: bool = True, timeout: float | None = None) -> int: ...
    def get(self, block: bool = True, timeout: float | None = None) -> Any: ...
    def get_nowait(self) -> Any: ...
    def get_many(self, max_items: int, block: bool = True, timeout: float | None = None) -> list[Any]: ...
    def qsize(self) -> int: ...
    def empty(self) -> bool: ...
    def full(self) -> bool: ...
    def close(self) -> None: ...
    def join_thread(self) -> None: ...
    def cancel_join_thread(self) -> None: ...
    @property
    def _closed(self) -> bool: ...
    def _unfinished(self) -> int: ...
    def _come(self) -> None: ...
    def _task_done(self) -> None: ...
    def _join(self, timeout: float | None) -> bool: ...

@final
class Bell:
    """A socket that becomes readable when a queue has changed, perhaps."""

    def __new__(cls) -> Bell: ...
    def fileno(self) -> int: ...
    def hush(self) -> bool: ...

def leave_queues() -> None:
    """Says that this process is about to end, for the sake of those who wait in its queues."""

def queue_reduce(array: np.ndarray[Any, Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What a queue's pickler makes of an array, in its `put`."""

def queue_array(place: bytes) -> np.ndarray[Any, Any]:
    """The array that `queue_reduce` made these bytes of, in `get`."""

def queue_place(array: np.ndarray[Any, Any]) -> bytes | None:
    """What stands for a shared array whose dtype the caller tells; None when it lies in no block."""

def queue_open_place(place: bytes, itemsize: int) -> tuple[Exporter, int, tuple[int, ...], tuple[int, ...]]:
    """Memory, offset, shape and strides of what `queue_place` made these bytes of."""

def queue_keep(handle: bytes) -> bytes:
    """Takes the block of a lock, a queue or the like along; what stands for it in the pickle."""

def queue_handle(place: bytes) -> bytes:
    """A handle of what `queue_keep` made these bytes of, good while that is unpickled."""

def queue_is_alone(queue: Queue) -> bool:
    """Whether the last other process that had the queue died, and no handle of it is on its way."""

def queue_add_buffer(exporter: Exporter, nbytes: int) -> None:
    """Takes a block along as the next out-of-band buffer of the pickle."""

def queue_methods(ty: type[Queue]) -> None:
    """Gives a derived class `put` and `get`, in C."""

def queue_ring_for_items(queue: Queue, bell: Bell) -> bool:
    """Asks for a ring when there may be an object; False when there is one already."""

def queue_ring_for_room(queue: Queue, bell: Bell) -> bool:
    """Asks for a ring when there may be room; False when there is some already."""

def queue_pass_on_ring(queue: Queue) -> None:
    """Wakes another who waits, if there is something for it."""
# --- The latest-value channel ---

@final
class LatestCell:
    """A channel with frames of `frame_bytes` bytes each; a frame is its number and its memory, which is read-only."""

    def __new__(cls, frame_bytes: int) -> LatestCell: ...
    @staticmethod
    def open(handle: bytes, frame_bytes: int) -> LatestCell: ...
    def send(self) -> bytes: ...
    @property
    def number(self) -> int:
        """The number of the newest frame; zero when there is none yet."""

    @property
    def has_writer(self) -> bool:
        """Whether somebody writes who is not known to be gone."""

    def become_writer(self) -> bool:
        """Makes this process the writer; False when it was already. RuntimeError when another is."""

    def stop_writing(self) -> None:
        """Ends being the writer; nothing happens if this process is not."""

    def issue(self, array: np.ndarray[Any, Any]) -> None:
        """Notes that a new array is to be filled and published."""

    def is_issued(self, array: object) -> bool:
        """Whether it is the very array that was issued, by this process, and was not published since."""

    def publish(self, array: np.ndarray[Any, Any]) -> int | None:
        """Publishes an array's memory, a whole block's; the frame's number, None when this process is not the writer."""

    def read(self, after: int) -> tuple[int, Exporter] | None:
        """The newest frame if it is newer than number `after`; waits for nobody."""

    def wait(self, after: int, timeout: float | None) -> tuple[int, Exporter] | None:
        """As `read`, waited for; None when none came in time. PeerDied; EOFError when the writer has ended."""

# --- Families ---

def configure_family(
    executable: _Name, cookie: bytes, hint: _Address | None = None, guardian_pid: int | None = None
) -> None:
    """Says how to start a tracker, what relatives prove themselves with, where home may be, and who receives in the end."""

def family_address() -> _Address | None:
    """Where children that are not forked find this process's family; None before its tracker was started."""

def join_family(handle: bytes | str, cookie: bytes) -> None:
    """Becomes a guest in the family of a handle or a name. ForeignHandle when it cannot be reached."""

def stats() -> dict[str, Any]:
    """What this process has and owns: figures, sizes in bytes, and under "by_holder" who holds its memory."""

def trim(in_flight: bool = False) -> int:
    """Gives free memory back to the system, with `in_flight` what was sent and not received, too; how many bytes."""

def drop_inherited() -> int:
    """Lets go of what this process holds because its parent did when it was forked; how many blocks."""

# --- What `_posixshmem` offers ---

def shm_open(path: _Name, flags: int, mode: int = 0o777) -> int:
    """Opens a shared memory object; the descriptor is the caller's to close."""

def shm_unlink(path: _Name) -> None:
    """Removes the name of a shared memory object."""

# --- The tracker ---

@final
class Tracker:
    """A process's side of a tracker; `Tracker()` has one of its own, which no other process finds.

    Calls that can find the tracker in a new state return None when there is nothing to tell, else (state, reason);
    after "unconfigured", call `configure` and repeat.
    """

    @staticmethod
    def shared() -> Tracker:
        """The tracker of this process and its family."""

    def configure(self, executable: _Name, parent_pid: int | None = None) -> None:
        """Says how to start or find a tracker. To be called once in each process, forked children included."""

    def ensure_running(self) -> _News:
        """Starts or finds a tracker unless this process is connected to one."""

    def join(self) -> _News:
        """Joins the tracker that the environment names, if it runs; never starts one."""

    def register(self, rtype: str, name: _Name, dev: int = 0, ino: int = 0, with_stderr: bool = True) -> _News:
        """Asks for `name` to be unlinked when this program is gone. ValueError for an unknown type or a bad name."""

    def unregister(self, rtype: str, name: _Name) -> _News:
        """Takes back a registration that this process made; others are passed over."""

    def gone(self, rtype: str, name: _Name, dev: int = 0, ino: int = 0) -> _News:
        """Tells that `name` was unlinked. Never starts a tracker."""

    def adopt(self, number: int) -> _News:
        """Joins over the socket that the parent handed down, which is then closed. OSError if it is no such socket."""

    def check_alive(self) -> bool:
        """Whether the connection stands and somebody is at its other end."""

    def stop(self) -> int | None:
        """Leaves the tracker; its exit status if it was this process's child and has ended."""

    @property
    def fd(self) -> int | None:
        """The socket's number; None if there is none."""

    @property
    def pid(self) -> int | None:
        """The tracker's pid if it is this process's child (or its forked parent's)."""

    @property
    def address(self) -> str | None:
        """The value of `SHARED_NUMPY_TRACKER` for children; None while there is none."""

tracker: Tracker
