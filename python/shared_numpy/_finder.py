"""Puts our modules where ``multiprocessing`` has none, or in the place of its own.

`activate` serves both ways of installing: in one process (`shared_numpy.install`)
and in an environment (the ``.pth`` line that ``python -m shared_numpy install``
writes). What is guaranteed:

- names are compared before anything is imported, so that a program which needs
  none of these modules pays for none;
- a module of ours that cannot be imported leaves the import to the standard
  library, as if nothing had been installed;
- modules that were imported before are replaced where ``multiprocessing`` holds
  them; `deactivate` puts back everything.
"""

import sys
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # noqa: F401

_PARENT = "multiprocessing"

# Standard name -> our module. What Python 3.6 and 3.7 lack, and the semaphore
# tracker, which must be the one that looks after the segments too: the standard
# one is started again by each spawned child, and unlinks the parent's resources.
_BACKPORT = {
    "_posixshmem": "shared_numpy._posixshmem",
    "multiprocessing.resource_tracker": "shared_numpy.resource_tracker",
    "multiprocessing.semaphore_tracker": "shared_numpy.semaphore_tracker",
    "multiprocessing.shared_memory": "shared_numpy.shared_memory",
}
# What newer versions have, and have replaced only when asked to.
_REPLACE = {
    "multiprocessing.resource_tracker": "shared_numpy.resource_tracker",
    "multiprocessing.shared_memory": "shared_numpy.shared_memory",
}
_MANAGERS = "multiprocessing.managers"
_OUR_MANAGERS = "shared_numpy.managers"
# Names that `multiprocessing.managers` gets from ours.
_MANAGER_NAMES = ("SharedMemoryManager", "SharedMemoryServer", "_SharedMemoryTracker")

# What the line of an installed environment (`_pth`) leaves in `sys.meta_path` says
# that it is defined here; it is called by name only, being of any older version.
_HOOK_MODULE = "shared_numpy_pth"

_MISSING = object()

_active = None  # type: Any
_lock = allocate_lock()


def aliases(replace):
    """The modules to provide on this version: standard name -> name of ours.

    Empty on Python 3.8 and newer unless ``replace`` is true.
    """
    if sys.version_info < (3, 8):
        return _BACKPORT
    return _REPLACE if replace else {}


def watched(replace):
    """The names of all modules whose import has to be noticed."""
    names = aliases(replace)
    return sorted(names) + [_MANAGERS] if names else []


def activate(replace=False):
    """Makes the standard imports find our modules from now on; idempotent.

    Returns the finder in charge, or None where there is nothing to do.
    """
    global _active
    names = aliases(replace)
    if not names:
        return _active
    with _lock:
        _remove_hooks()
        fresh = _active is None
        if fresh:
            _active = Finder(names)
            sys.meta_path.insert(0, _active)
        finder = _active
    # Without the lock: this imports.
    if fresh:
        finder.patch_imported()
    return finder


def deactivate():
    """Takes back what `activate` did in this process; False if there was nothing."""
    global _active
    with _lock:
        hooked = _remove_hooks()
        finder, _active = _active, None
    if finder is not None:
        finder.restore()
    return hooked or finder is not None


def _is_hook(finder):
    return getattr(finder, "__module__", None) == _HOOK_MODULE


def _remove_hooks():
    """Removes what was left to wake us up; whether there was something."""
    hooks = [finder for finder in sys.meta_path if _is_hook(finder)]
    for hook in hooks:
        sys.meta_path.remove(hook)
    return bool(hooks)


def managers_are_ready():
    """Said by our managers module at its end: see `Finder.patch_managers`."""
    if _active is not None:
        _active.patch_managers()


class _Alias:
    """A loader that makes a standard name stand for a module of ours."""

    def __init__(self, module):
        self.module = module

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        # The import system goes on with what it finds here. The module itself keeps
        # its own name and spec: it is one module under two names.
        sys.modules[module.__spec__.name] = self.module


class Finder:
    """The entry in ``sys.meta_path``."""

    def __init__(self, names):
        self._names = names
        # What `restore` puts back: (namespace, key, former value or _MISSING).
        self._changes = []
        # The standard module that each of ours stands for, where it was imported.
        self._former = {}

    def find_spec(self, name, path=None, target=None):
        """The spec of a module to provide; None for all others."""
        if name in self._names:
            module = self._ours(name)
            # The class of specs is not importable without `importlib`.
            make_spec = type(sys.__spec__)  # type: Any
            return None if module is None else make_spec(name, _Alias(module))
        if name == _MANAGERS:
            return self._find_managers(name, path, target)
        return None

    def _ours(self, name):
        """Our module for a standard name, or None if it cannot be imported."""
        try:
            __import__(self._names[name])
        except Exception:
            return None
        module = sys.modules[self._names[name]]
        self._note_former(name)
        return module

    def _find_managers(self, name, path, target):
        """The standard module's spec, with a loader that adds our names at the end."""
        for finder in sys.meta_path:
            if finder is self or _is_hook(finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        loader = spec.loader  # type: Any
        execute = getattr(loader, "exec_module", None)
        if execute is None or isinstance(loader, type):
            # No place for a function of ours (a zipped or frozen standard library).
            return spec

        def exec_module(module):
            execute(module)
            try:
                self.patch_managers()
            except Exception:
                # The module is as the standard library has it: better than none.
                pass

        try:
            # Each import has a loader object of its own, and only this call is
            # another: the source, for tracebacks, is still found through it.
            loader.exec_module = exec_module
        except AttributeError:
            pass
        return spec

    def patch_imported(self):
        """Replaces what was imported before."""
        for name in self._names:
            if name in sys.modules:
                module = self._ours(name)
                if module is not None and sys.modules[name] is not module:
                    self._replace(name, sys.modules[name], module)
        if _MANAGERS in sys.modules:
            self.patch_managers()

    def patch_managers(self):
        """Puts our managers into ``multiprocessing.managers``, once both are there.

        Each of the two modules may be the one whose import brings the other in, so
        that it is found half done here: then it calls again at its end.
        """
        standard = sys.modules.get(_MANAGERS)
        if standard is None or not hasattr(standard, "SyncManager"):
            return
        if _OUR_MANAGERS not in sys.modules:
            __import__(_OUR_MANAGERS)
        ours = sys.modules[_OUR_MANAGERS]
        if not hasattr(ours, _MANAGER_NAMES[0]) or _is_ours(standard):
            return
        for name in _MANAGER_NAMES:
            self._set(standard.__dict__, name, getattr(ours, name))
        names = standard.__all__
        if _MANAGER_NAMES[0] not in names:
            self._set(standard.__dict__, "__all__", list(names) + [_MANAGER_NAMES[0]])

    def _replace(self, name, old, new):
        """Puts ``new`` wherever ``multiprocessing`` holds the module ``old``."""
        self._set(sys.modules, name, new)
        for module_name, module in list(sys.modules.items()):
            if module_name == _PARENT or module_name.startswith(_PARENT + "."):
                self._replace_globals(vars(module), old, new)

    def _replace_globals(self, namespace, old, new):
        if namespace is vars(old) or namespace is vars(new):
            return
        for key, value in list(namespace.items()):
            if value is old:
                self._set(namespace, key, new)
            elif (key in ("SharedMemory", "ShareableList")
                  and value is getattr(old, key, _MISSING)):
                self._set(namespace, key, getattr(new, key))

    def _note_former(self, name):
        """Tells our resource tracker of the standard one that it takes over from."""
        if not name.endswith("_tracker") or name in self._former:
            return
        old = sys.modules.get(name)
        self._former[name] = old
        if old is not None:
            from . import _tracker
            instance = getattr(old, "_" + name.rpartition(".")[2], None)
            if instance is not None:
                _tracker.succeed(instance)

    def _set(self, namespace, key, value):
        self._changes.append((namespace, key, namespace.get(key, _MISSING)))
        namespace[key] = value

    def restore(self):
        """Undoes everything, the last change first."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        while self._changes:
            namespace, key, former = self._changes.pop()
            if former is _MISSING:
                namespace.pop(key, None)
            else:
                namespace[key] = former
        self._forget_aliases()
        from . import _tracker
        _tracker.step_down()

    def _forget_aliases(self):
        """Takes our modules away from where the import system put them since."""
        ours = {}
        for name, our_name in self._names.items():
            module = sys.modules.get(our_name)
            if module is not None:
                ours[id(module)] = name
                if sys.modules.get(name) is module:
                    del sys.modules[name]
        for module_name, module in list(sys.modules.items()):
            if module_name != _PARENT and not module_name.startswith(_PARENT + "."):
                continue
            namespace = vars(module)
            for key, value in list(namespace.items()):
                name = ours.get(id(value))
                if name is None:
                    continue
                del namespace[key]
                if module_name != _PARENT:
                    # Imported by a module of the standard library, which needs its own.
                    __import__(name)
                    namespace[key] = sys.modules[name]


def _is_ours(managers):
    current = getattr(managers, _MANAGER_NAMES[0], None)
    return getattr(current, "__module__", None) == _OUR_MANAGERS
