"""The module in which CPython's factory puts its test classes, as test_multiprocessing_spawn.py is there.

Children import it by name when a test pickles something that it owns, so the start method travels in the environment.
"""
import os

from test import _test_multiprocessing

START_METHOD = os.environ["CONFORMANCE_START_METHOD"]

_test_multiprocessing.install_tests_in_module_dict(globals(), START_METHOD)
