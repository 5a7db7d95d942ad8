"""What the tests share: start methods, and a watch over what they leave behind."""

import glob
import multiprocessing
import os
import time

import pytest

from programs import METHODS

ARRAYS = "/dev/shm/snp_*"


@pytest.fixture(params=METHODS)
def context(request):
    """A multiprocessing context, each start method in turn."""
    return multiprocessing.get_context(request.param)


def is_mapped(path):
    """Whether some process has the file mapped."""
    for maps in glob.glob("/proc/[0-9]*/maps"):
        try:
            with open(maps) as lines:
                if any(path in line for line in lines):
                    return True
        except OSError:
            pass  # gone, or another user's
    return False


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    """Fails a test after which segments of arrays exist that nobody has mapped."""
    before = set(glob.glob(ARRAYS))
    yield
    end = time.monotonic() + 5
    while True:
        left = [path for path in set(glob.glob(ARRAYS)) - before
                if os.path.exists(path) and not is_mapped(path)]
        if not left:
            return
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    for path in left:
        os.unlink(path)
    pytest.fail("segments left behind: {}".format(left))
