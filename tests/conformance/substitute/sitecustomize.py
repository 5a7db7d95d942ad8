"""Stands on PYTHONPATH while CPython's tests of queues and locks run: ours in place of `multiprocessing`'s.

Guarantees: in each interpreter of the run, children too, however they were started, `multiprocessing.X()` and `X()` of
every context make what `shared_numpy.X()` makes, for each X of NAMES. Nothing else of `multiprocessing` is changed, and
our package is imported when the first of them is made. A hook of `site`, because spawned children and fork servers
import nothing of the parent's before they need it.
"""
import multiprocessing
from multiprocessing.context import BaseContext

NAMES = ("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier",
         "Queue", "JoinableQueue", "SimpleQueue")


def _method(name):
    def make(self, *args, **options):
        import shared_numpy
        return getattr(shared_numpy, name)(*args, **options)

    make.__name__ = name
    return make


for _name in NAMES:
    # A name that a context does not have would test nothing.
    getattr(BaseContext, _name)
    setattr(BaseContext, _name, _method(_name))
    # The module's own functions are methods that were bound when it was imported.
    setattr(multiprocessing, _name, getattr(multiprocessing.context._default_context, _name))
