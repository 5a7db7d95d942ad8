#!/usr/bin/env python3
"""The newest-frame channel beside what one would make by hand: one array in shared memory under a lock, copied in and out.

The writer publishes one frame after the other while the reader reads all the time, each as fast as it can, until the writer has
published all of its frames. Frames carry their number at both ends: one whose ends differ is torn and ends the run, as does a
number that goes back. See README.md in this folder.
"""
import collections
import functools
import sys
import time

import numpy as np

import shared_numpy as snp

import _measure
import _report
import _workers

SIZES = collections.OrderedDict([("1 KiB", 128), ("36 MB", 4500000)])  # items of 8 bytes
OURS, HAND = "shared_numpy.Latest", "one array and a lock"


class Ours:
    """`snp.Latest`; a frame is written where it is."""

    def __init__(self, items):
        self._channel = snp.Latest(items, np.int64)

    def publish(self, number):
        """A frame with the number at both ends."""
        frame = self._channel.next_frame()
        frame[0] = frame[-1] = number
        self._channel.publish(frame)

    def read(self):
        """The newest frame."""
        return self._channel.read()


class ByHand:
    """An array, and a lock."""

    def __init__(self, items):
        self._array = np.frombuffer(_workers.CONTEXT.RawArray("B", 8 * items), np.int64)
        self._lock = _workers.CONTEXT.Lock()
        self._own = np.zeros(items, np.int64)

    def publish(self, number):
        """Copies a frame in."""
        self._own[0] = self._own[-1] = number
        with self._lock:
            self._array[:] = self._own

    def read(self):
        """A copy of the frame."""
        with self._lock:
            return self._array.copy()


def write(channel, count, gate):
    """Publishes; seconds for each frame."""
    channel.publish(1)
    gate.wait()
    began = time.monotonic()
    for number in range(2, count + 2):
        channel.publish(number)
    return (time.monotonic() - began) / count


def read(channel, count, gate):
    """Reads until the last frame came; seconds for each reading."""
    gate.wait()
    began, reads, last = time.monotonic(), 0, 1
    while last < count + 1:
        frame = channel.read()
        reads += 1
        number = frame.item(0)
        if frame.item(-1) != number or number < last:
            raise RuntimeError("a frame with {} and {} at its ends came after {}".format(number, frame.item(-1), last))
        last = number
    return (time.monotonic() - began) / reads


def at_once(make, items, count):
    """(seconds for a frame, for a reading) while both are at work."""
    channel = make(items)
    return _workers.run(functools.partial(write, channel, count), functools.partial(read, channel, count))


def newest(quick):
    """A writer and a reader at work at once, each as fast as it can"""
    for size, items in SIZES.items():
        sides = collections.OrderedDict()
        for name, make, count in ((OURS, Ours, 20000), (HAND, ByHand, 20000 if items < 1000 else 30)):
            sides[name] = functools.partial(at_once, make, items, 5 if quick else count)
        found = _measure.samples(sides, 1 if quick else 7)
        for what, place in (("publish", 0), ("read", 1)):
            times = {name: _measure.median([value[place] for value in values]) for name, values in found.items()}
            for name in sides:
                _report.figure("{}, {}: {}".format(name, size, what), times[name])
            _report.ratio("times as fast", times[HAND] / times[OURS])


PARTS = collections.OrderedDict([("newest", newest)])


if __name__ == "__main__":
    sys.exit(_report.main(__doc__, PARTS))
