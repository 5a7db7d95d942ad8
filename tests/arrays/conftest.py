"""What the tests of arrays share."""

import gc

import pytest

import shared_numpy as snp


@pytest.fixture
def made():
    """Makes arrays; fails if shared memory stays in use when they are gone."""
    from array_samples import in_use  # needs NumPy, without which each module skips itself
    gc.collect()
    before = in_use()
    yield snp.array
    gc.collect()
    assert in_use() == before
