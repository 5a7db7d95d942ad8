"""A queue that is looked after."""

import pytest

import shared_numpy as snp
from queue_watch import kept


@pytest.fixture
def queue():
    """A queue; fails if anything stays of what went through it."""
    queue = snp.Queue()
    before = kept()
    yield queue
    assert queue.empty()
    assert kept() == before
    queue.close()
