"""What the tests of the latest-value channel share: frames that tell whether they are whole, and a watch over memory."""

import gc
import pickle
import time
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

import shared_numpy as snp

# Longer than any step takes; a test that waits so long fails.
LONG = 60
SHAPE = (64, 257)


def in_use():
    gc.collect()  # exceptions that were caught refer to frames that refer to them
    snp.trim()
    return snp.stats()["in_use_bytes"]


@pytest.fixture(autouse=True)
def nothing_is_held():
    """Fails a test after which this process has more memory in use than before."""
    before = in_use()
    yield
    end = time.monotonic() + 20
    while in_use() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert in_use() <= before, snp.stats()


def telemetry():
    """A channel of frames in which each element is the frame's number."""
    return snp.Latest(SHAPE, "u4")


def check(frame, number=None):
    """Each element of a frame is the same; which."""
    first = int(frame[0, 0])
    assert frame.shape == SHAPE and frame.dtype == np.dtype("u4")
    assert (frame == first).all(), "a torn frame"
    assert number is None or first == number
    return first


def write(channel, number):
    """Publishes by handing over and by copy in turn; half of a frame is written at a time."""
    if number % 3:
        frame = channel.next_frame()
    else:
        frame = np.empty(SHAPE, "u4")
    half = SHAPE[0] // 2
    frame[:half] = number
    frame[half:] = number
    assert channel.publish(frame) == number


def pickled(channel):
    """The channel as another object, as another process would have it."""
    return pickle.loads(bytes(ForkingPickler.dumps(channel)))
