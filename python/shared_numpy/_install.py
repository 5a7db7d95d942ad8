"""`install` and `uninstall`: the standard imports in this process and its children.

Forked children have what their parent has. A spawned child and a child of the
fork server begin with a fresh interpreter and a message from the parent, the
preparation data, which they unpickle before anything else: an entry of ours in it
installs in the child too, before the program's own modules are imported there.
"""

import os
import sys

from . import _finder

__all__ = ["install", "uninstall"]

_SPAWN = "multiprocessing.spawn"
_KEY = "shared_numpy"

# What a child runs while it unpickles its preparation data. The parent's `sys.path`
# is still to come there, so the place of the package travels along.
_IN_CHILD = """\
import sys
path = list(sys.path)
sys.path.append({directory!r})
try:
    import shared_numpy
    shared_numpy.install(replace={replace!r})
except ImportError:
    pass
finally:
    sys.path[:] = path
"""

# Taken now: a relative entry of `sys.path` would mean another place after a chdir.
_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_replace = False


def install(replace=False):
    """Makes the standard library's imports find this package, in this process.

    On Python 3.6 and 3.7, ``multiprocessing.shared_memory``,
    ``multiprocessing.resource_tracker`` and
    ``multiprocessing.managers.SharedMemoryManager`` can be imported afterwards, by
    this process and by the children that it starts with ``multiprocessing``, and
    one tracker looks after semaphores and segments. Newer versions have these
    modules, which are left alone unless ``replace`` is true.

    Call it at the start of the program, before other modules take names out of
    those that it replaces. Calling it again does no harm.

    Parameters
    ----------
    replace : bool
        On Python 3.8 and newer, put the modules of this package in the place of the
        standard library's.

    Raises
    ------
    ImportError
        The package's extension module cannot be loaded here.

    See Also
    --------
    uninstall : takes it back.
    """
    global _replace
    if not _finder.aliases(replace):
        return
    # A broken build is said here, and not when something is imported.
    from . import _core  # noqa: F401
    _replace = _replace or bool(replace)
    _finder.activate(replace)
    from multiprocessing import spawn
    if not isinstance(spawn.get_preparation_data, _Preparation):
        spawn.get_preparation_data = _Preparation(spawn.get_preparation_data)


def uninstall():
    """Takes back what `install` did in this process.

    Objects that were made meanwhile stay usable, and the tracker goes on looking
    after them. Names that other modules took out of the replaced ones stay with
    these modules. An installation of the whole environment
    (``python -m shared_numpy install``) is taken back for this process only.

    Returns
    -------
    bool
        Whether there was anything to take back.
    """
    global _replace
    _replace = False
    spawn = sys.modules.get(_SPAWN)
    if spawn is not None and isinstance(spawn.get_preparation_data, _Preparation):
        spawn.get_preparation_data = spawn.get_preparation_data.standard
    return _finder.deactivate()


class _Preparation:
    """`multiprocessing.spawn.get_preparation_data` with an entry of ours."""

    def __init__(self, standard):
        self.standard = standard

    def __call__(self, *args, **kwargs):
        data = self.standard(*args, **kwargs)
        data[_KEY] = _InstallInChild()
        return data


class _InstallInChild:
    """Unpickled, it has installed; what stays of it is None."""

    def __reduce__(self):
        # Nothing of ours can be imported in the child yet: a builtin has to do.
        return exec, (_IN_CHILD.format(directory=_DIRECTORY, replace=_replace), {})
