"""Between the Python modules and the client of the tracker in ``_core``.

The client finds and starts the tracker, keeps the connection and survives forks.
What only Python knows is added here: where the executable lies, whether this process
is a ``multiprocessing`` child, whether there is a standard error, and how to warn.
Warnings are issued when the call into the client has returned and nothing is locked.
"""

import os
import sys

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Set  # noqa: F401

_EXECUTABLE = "shared-numpy-tracker"
# Where children look for the tracker; `tracker/address.rs` has its form.
_VARIABLE = "SHARED_NUMPY_TRACKER"
# Says to the multiprocessing children that the warning has been given.
_WARNED_VARIABLE = "SHARED_NUMPY_UNTRACKED"

# Taken now: a relative path would lead elsewhere after a chdir.
_DIRECTORY = os.path.dirname(os.path.abspath(_core.__file__))

_shared = _core.tracker  # type: Any
_shared_register = _shared.register
_shared_unregister = _shared.unregister
_shared_gone = _shared.gone

_UNKNOWN = (0, 0)


def register(rtype, name, identity=_UNKNOWN):
    """Has ``name`` unlinked when this program is gone, however it ends.

    Parameters
    ----------
    rtype : str
        What it is: "shared_memory", "array", "semaphore".
    name : str
        The name, with its leading slash.
    identity : tuple of int
        Device and inode of the file; zeros if they are not known. Another file of
        that name is left alone.

    Warns
    -----
    UserWarning
        The tracker had died, or cannot be started.

    Raises
    ------
    ValueError
        An unknown type, or a name that is empty, too long or has a NUL.
    OSError
        The system has no descriptor or no memory left, or the tracker is stuck.
    """
    news = _shared_register(rtype, name, identity[0], identity[1], sys.__stderr__ is not None)
    if news is not None:
        _tell(_shared, news, lambda: register(rtype, name, identity))


def unregister(rtype, name):
    """Takes back what this process registered; nothing happens if it did not.

    Warnings and errors are those of `register`.
    """
    news = _shared_unregister(rtype, name)
    if news is not None:
        _tell(_shared, news, lambda: unregister(rtype, name))


def gone(rtype, name, identity=_UNKNOWN):
    """Says that ``name`` has been unlinked, so that nobody need clean it up.

    Parameters, warnings and errors are those of `register`; no tracker is started for
    this, and it is no matter for a warning that there is none.
    """
    news = _shared_gone(rtype, name, identity[0], identity[1])
    if news is not None and news[0] != "unavailable":
        _tell(_shared, news, lambda: gone(rtype, name, identity))


def ensure_running():
    """Starts or finds the tracker unless this process is connected to one."""
    news = _shared.ensure_running()
    if news is not None:
        _tell(_shared, news, ensure_running)


# The process that has come to its program, or has tried to.
_came = None


def come():
    """Makes a spawned ``multiprocessing`` child count as one of its program.

    It does by itself when it registers something. One that only attaches must do as
    well, or the names it uses would go with its parent. Tried once; that there is no
    tracker, or a stuck one, is no matter.
    """
    global _came
    pid = os.getpid()
    if _came == pid:
        return
    _came = pid
    if _VARIABLE not in os.environ or parent_pid() is None:
        return
    try:
        news = _shared.join()
        if news is not None and news[0] == "unconfigured":
            _configure(_shared)
            news = _shared.join()
    except OSError:
        return
    if news is not None and news[0] != "unavailable":
        _tell(_shared, news, None)


def adopt(fd):
    """Joins the parent's program over a connection that it handed down.

    The descriptor is closed then. Returns False, and leaves it open, if it is no
    such connection.
    """
    _configure(_shared)
    try:
        news = _shared.adopt(fd)
    except OSError:
        return False
    if news is not None:
        _tell(_shared, news, None)
    return True


def stop():
    """Leaves the tracker and waits for its end if this process started it.

    Returns its exit status, or None where that is not known.
    """
    status = _shared.stop()
    # Nobody may be there any more; it would only be a detour for children.
    os.environ.pop(_VARIABLE, None)
    return status


def configured(tracker):
    """A `_core.Tracker` that knows where the executable lies."""
    _configure(tracker)
    return tracker


def hear(tracker, news, again):
    """Acts upon what a call of a private tracker returned, if it is not None."""
    if news is not None:
        _tell(tracker, news, again)


def executable():
    """The path of the tracker's executable, beside the extension module."""
    return os.path.join(_DIRECTORY, _EXECUTABLE)


def _configure(tracker):
    parent = parent_pid() if tracker is _shared else None
    tracker.configure(executable(), parent)


def parent_pid():
    """In a child that ``multiprocessing`` started, the pid of its parent; else None."""
    module = sys.modules.get("multiprocessing.process")
    if module is None:
        return None
    process = module.current_process()
    if getattr(process, "_inheriting", False):
        # Still unpickling what it is to do. Whoever exported the address is its
        # parent; without one, it is a forked server's parent at worst.
        exporter = os.environ.get(_VARIABLE, "").rpartition(".")[2]
        return int(exporter) if exporter.isdigit() else os.getppid()
    return getattr(process, "_parent_pid", None)


def _tell(tracker, news, again):
    """Acts upon a new state of the tracker; calls ``again`` if the call was too early."""
    state, reason = news
    if state == "unconfigured":
        _configure(tracker)
        if again is not None:
            again()
        return
    if state == "unavailable":
        _warn_unavailable(reason)
        return
    if tracker is _shared:
        address = tracker.address
        if address is not None:
            os.environ[_VARIABLE] = address
    if state in ("relaunched", "rejoined"):
        _warn("resource_tracker: process died unexpectedly, relaunching.  "
              "Some resources might leak.")


_warned = False


def _warn_unavailable(reason):
    global _warned
    if _warned:
        return
    _warned = True
    if parent_pid() is not None and os.environ.get(_WARNED_VARIABLE):
        return
    os.environ[_WARNED_VARIABLE] = "1"
    _warn("resource_tracker: {} cannot be started ({}). Shared memory works, but what is "
          "left behind by a crash will not be cleaned up.".format(executable(), reason))


def _warn(message):
    # As if from the first line outside of this package: whoever made the segment.
    here = os.path.join(os.path.dirname(__file__), "")
    level = 1
    frame = sys._getframe()  # type: Any
    while frame is not None and frame.f_code.co_filename.startswith(here):
        level += 1
        frame = frame.f_back
    # Loaded when needed.
    import warnings
    warnings.warn(message, UserWarning, stacklevel=level)


# --- Taking over from a tracker of the standard library ---------------------------

# Trackers of the standard library that ran before ours took their place.
_former = []  # type: List[Any]
# Semaphores that this process registered: whose they are, and their names.
_semaphores = set()  # type: Set[str]
_semaphores_pid = None


def succeed(former):
    """Takes over from a tracker object of the standard library.

    A connection to our tracker that was put there is adopted. Another tracker stays
    in charge of what it knows, and hears from `forget_elsewhere` until then.
    """
    fd = former._fd
    if fd is None:
        return
    if former._pid is None and adopt(fd):
        former._fd = None
    else:
        _former.append(former)


def step_down():
    """Gives the semaphores of this process back to the standard library's tracker."""
    del _former[:]
    if not _semaphores or _semaphores_pid != os.getpid():
        return
    names = sorted(_semaphores)
    _semaphores.clear()
    if sys.version_info < (3, 8):
        from multiprocessing.semaphore_tracker import register as standard
    else:
        from multiprocessing.resource_tracker import register as standard
    for name in names:
        if sys.version_info < (3, 8):
            standard(name)
        else:
            standard(name, "semaphore")
        unregister("semaphore", name)


def note_semaphore(name):
    """Remembers a semaphore that the public face registers."""
    global _semaphores_pid
    pid = os.getpid()
    if _semaphores_pid != pid:
        _semaphores.clear()
        _semaphores_pid = pid
    _semaphores.add(name)


def forget_semaphore(name):
    """Whether a semaphore was ours; it is not any more."""
    if name in _semaphores:
        _semaphores.discard(name)
        return True
    return False


def forget_elsewhere(rtype, name):
    """Unregisters with the standard library's tracker what it must have registered."""
    for former in _former:
        if sys.version_info < (3, 8):
            former.unregister(name)
        else:
            former.unregister(name, rtype)


# --- For `python -m shared_numpy status` ------------------------------------------

def is_reachable():
    """Whether a tracker listens at the address in the environment."""
    name = os.environ.get(_VARIABLE, "").partition(".")[0]
    if not name:
        return False
    import socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect("\0shared_numpy." + name)
        except OSError:
            return False
    return True


def problem():
    """Why no tracker can be started here; None if one can (it is tried)."""
    trial = configured(_core.Tracker())
    try:
        news = trial.ensure_running()
        trial.stop()
    except OSError as error:
        return str(error)
    return news[1] if news is not None and news[0] == "unavailable" else None
