"""The standard library's `shared_memory`, where the running interpreter has one.

The tests marked "difference" show its behaviour beside ours, so that a fix upstream is noticed.
"""

import sys

import pytest

from shared_numpy import shared_memory

try:
    from multiprocessing import resource_tracker as standard_tracker
    from multiprocessing import shared_memory as standard
    if standard is shared_memory:  # replaced by `install --replace`
        standard = None
except ImportError:
    standard = standard_tracker = None

Standard = standard and standard.ShareableList

needs_standard = pytest.mark.skipif(
    standard is None, reason="this interpreter has no shared_memory of its own to compare with")
needs_standard_39 = pytest.mark.skipif(
    Standard is None or sys.version_info < (3, 9),
    reason="the standard library writes the newer layout from 3.9 on")
