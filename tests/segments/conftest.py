"""What the tests of segments share."""

import pytest

from shared_numpy.shared_memory import SharedMemory


@pytest.fixture
def segment():
    made = SharedMemory(create=True, size=4096)
    yield made
    made.close()
    try:
        made.unlink()
    except FileNotFoundError:
        pass
