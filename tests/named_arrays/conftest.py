"""What the tests of named arrays share."""

import itertools
import os

import pytest

from named_files import path_of

_numbers = itertools.count()


@pytest.fixture
def name():
    """A name of its own; whatever has it at the end goes."""
    name = "named_{}_{}".format(os.getpid(), next(_numbers))
    yield name
    try:
        os.unlink(path_of(name))
    except FileNotFoundError:
        pass
