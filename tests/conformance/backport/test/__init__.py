"""Stands before the interpreter's own package `test` on 3.6 and 3.7, so that one module of it can be another's.

Everything but `test._test_multiprocessing` is found in the interpreter's own package, which is second on `__path__`.
A package on PYTHONPATH, not a patched sys.modules, because spawned children import the tests by name.
"""
import os

__path__.append(os.path.join(os.path.dirname(os.__file__), "test"))
