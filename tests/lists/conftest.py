"""What the tests of lists share."""

import pytest

from shared_numpy.shared_memory import ShareableList, SharedMemory
from list_samples import remove


@pytest.fixture
def make():
    """Makes lists; afterwards their memory is removed."""
    made = []

    def make_list(*args, cls=ShareableList, **keywords):
        made.append(cls(*args, **keywords))
        return made[-1]

    yield make_list
    for items in made:
        remove(items.shm)


@pytest.fixture
def segment():
    """Puts bytes into a new segment; afterwards it is removed."""
    made = []

    def make_segment(content):
        made.append(SharedMemory(create=True, size=len(content)))
        made[-1].buf[:len(content)] = content
        return made[-1]

    yield make_segment
    for shm in made:
        remove(shm)
