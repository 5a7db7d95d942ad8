"""What one would make by hand: a ring of arrays in one segment, and two semaphores. For one producer and one consumer.

The measure of the queue's speed by copy: nothing but a copy in, a copy out, and the least that must be said about them.
"""
import multiprocessing

import numpy as np

try:
    from multiprocessing import shared_memory
except ImportError:
    shared_memory = None  # before 3.8

CONTEXT = multiprocessing.get_context("fork")


class Ring:
    """`put` and `get` arrays of one shape; made before the processes that use it are forked."""

    def __init__(self, slots, items, dtype):
        size_bytes = slots * items * np.dtype(dtype).itemsize
        self._segment = None
        if shared_memory is not None:
            self._segment = shared_memory.SharedMemory(create=True, size=size_bytes)
            buffer = self._segment.buf
        else:
            buffer = CONTEXT.RawArray("B", size_bytes)
        # All its pages are there before anybody measures.
        self._arrays = np.frombuffer(buffer, dtype, slots * items).reshape(slots, items)
        self._arrays[...] = 0
        self._slots, self._at = slots, 0
        self._free, self._filled = CONTEXT.Semaphore(slots), CONTEXT.Semaphore(0)

    def put(self, array):
        """Copy an array in."""
        self._free.acquire()
        self._arrays[self._at] = array
        self._at = (self._at + 1) % self._slots
        self._filled.release()

    def get(self):
        """Copy the oldest one out."""
        self._filled.acquire()
        array = self._arrays[self._at].copy()
        self._at = (self._at + 1) % self._slots
        self._free.release()
        return array

    def close(self):
        """Remove the segment."""
        self._arrays = None
        if self._segment is not None:
            self._segment.close()
            self._segment.unlink()
