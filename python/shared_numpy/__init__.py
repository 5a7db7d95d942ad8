"""Shared memory between the processes of one machine, and NumPy arrays in it.

Importing this package loads nothing: each public name is fetched at its first
use, so that ``from shared_numpy import shared_memory`` costs neither NumPy nor
``multiprocessing``. Python 3.6 knows no ``__getattr__`` of modules; the class of
this module does it on every version. Type checkers read ``__init__.pyi``.
"""

import os
import sys

# What is fetched later must be found from another directory as well.
__path__ = [os.path.abspath(entry) for entry in __path__]

__all__ = [
    "ForeignHandle",
    "Queue",
    "SharedNDArray",
    "StaleHandle",
    "TrackerUnavailable",
    "__version__",
    "array",
    "empty",
    "empty_like",
    "from_array",
    "full",
    "full_like",
    "install",
    "managers",
    "ndarray",
    "ones",
    "ones_like",
    "resource_tracker",
    "semaphore_tracker",
    "shared_memory",
    "uninstall",
    "zeros",
    "zeros_like",
]

# Public name -> the submodule that defines it; None for a submodule itself.
_HOME = {
    "ForeignHandle": "_core",
    "Queue": "queue",
    "SharedNDArray": "array",
    "StaleHandle": "_core",
    "TrackerUnavailable": "_core",
    "__version__": "_core",
    "array": "array",
    "empty": "array",
    "empty_like": "array",
    "from_array": "array",
    "full": "array",
    "full_like": "array",
    "install": "_install",
    "managers": None,
    "ndarray": "array",
    "ones": "array",
    "ones_like": "array",
    "queue": None,
    "reduction": None,
    "resource_tracker": None,
    "semaphore_tracker": None,
    "shared_memory": None,
    "uninstall": "_install",
    "zeros": "array",
    "zeros_like": "array",
}


class _Package(type(sys)):
    """The package's own class: a module whose public names arrive when asked for."""

    def __getattr__(self, name):
        try:
            home = _HOME[name]
        except KeyError:
            # In these words `hasattr`, `from ... import` and help texts expect it.
            raise AttributeError("module {!r} has no attribute {!r}".format(
                self.__name__, name)) from None
        # A plain `__import__`: `importlib` is not loaded in a bare interpreter.
        full_name = self.__name__ + "." + (home or name)
        __import__(full_name)
        value = sys.modules[full_name]
        if home is not None:
            value = getattr(value, name)
        setattr(self, name, value)
        return value

    def __dir__(self):
        return sorted(set(self.__dict__).union(__all__))

    # `shared_numpy.array` is a function, and there is a submodule of that name, which
    # the import system would put in its place: a property is stronger than both.
    @property
    def array(self):
        __import__(self.__name__ + ".array")
        return sys.modules[self.__name__ + ".array"].array

    @array.setter
    def array(self, value):
        pass


sys.modules[__name__].__class__ = _Package
