#!/usr/bin/env python3
"""Arrays in pools: what a new one costs beside numpy's own, and frames from process to process beside a segment for each.

Prints medians of interleaved rounds, ratios, and what is promised. See README.md in this folder for how it measures.
"""
import collections
import multiprocessing
import sys
import time

import numpy as np

import shared_numpy as snp
from shared_numpy import shared_memory

import _measure
import _report

KIB = 1024
SIZES = [KIB, 4 * KIB, 64 * KIB, KIB * KIB, 36 * 1000 * 1000]
FRAME_ITEMS = 4500000  # 36 MB of float64
WAITING = 2  # frames that may wait for the consumer
WARM_UP = WAITING + 3  # as many as there are at a time


# --- a new array ---

def make_write_drop(empty, size_bytes, iterations):
    """Seconds for one array: made, one element written, dropped."""
    dtype = np.dtype(np.uint8)
    began = time.perf_counter()
    for _ in range(iterations):
        array = empty(size_bytes, dtype)
        array[0] = 1
        del array
    seconds = time.perf_counter() - began
    array = empty(size_bytes, dtype)
    array[0] = 7
    array[-1] = 9
    if (array.nbytes, int(array[0]), int(array[-1])) != (size_bytes, 7, 9):
        raise RuntimeError("the array is not as it was written")
    return seconds / iterations


def creation(quick):
    """Make an array, write one element, drop it: all sizes beside numpy's of 1 KiB."""
    iterations, rounds = (200, 2) if quick else (20000, 15)
    sides = collections.OrderedDict()
    sides["numpy"] = lambda: make_write_drop(np.empty, KIB, iterations)
    for size in SIZES:
        sides[size] = lambda size=size: make_write_drop(snp.empty, size, iterations)
    times = _measure.interleave(sides, rounds)
    _report.figure("numpy.empty, 1 KiB", times["numpy"], "ns")
    for size in SIZES:
        _report.figure("shared_numpy.empty, {} KiB".format(size // KIB), times[size], "ns")
        _report.promise("times as long as numpy's 1 KiB", times[size] / times["numpy"], 3, most=True)


# --- frames ---

def fill(frame, number):
    """The work of the producer: writes all of the frame."""
    frame.fill(number % 100)


def check(total, number):
    """Whether a frame of that number sums up to `total`."""
    if total != float(number % 100) * FRAME_ITEMS:
        raise RuntimeError("frame {} sums up to {}".format(number, total))


def consume(queue, count, answer):
    """The consumer: sums each frame."""
    for number in range(count):
        frame = queue.get()
        check(float(frame.sum()), number)
        del frame
        if number < WARM_UP or number == count - 1:
            answer.put(number)


def consume_segments(queue, count, answer):
    """The consumer for a fresh segment for each frame."""
    for number in range(count):
        segment = shared_memory.SharedMemory(queue.get())
        frame = np.ndarray((FRAME_ITEMS,), np.float64, segment.buf)
        check(float(frame.sum()), number)
        del frame
        segment.close()
        segment.unlink()
        if number < WARM_UP or number == count - 1:
            answer.put(number)


def produce(queue, number):
    """A frame in recycled memory."""
    frame = snp.empty(FRAME_ITEMS, np.float64)
    fill(frame, number)
    queue.put(frame)


def produce_segment(queue, number):
    """A frame in a segment of its own."""
    segment = shared_memory.SharedMemory(create=True, size=8 * FRAME_ITEMS)
    frame = np.ndarray((FRAME_ITEMS,), np.float64, segment.buf)
    fill(frame, number)
    del frame
    queue.put(segment.name)
    segment.close()


def through(make_queue, producer, consumer, count):
    """Seconds for a frame that is written here and summed in a child, which are at work at the same time."""
    context = multiprocessing.get_context("fork")
    # So that the child finds the tracker of segments: it is to hear who removed them.
    first = shared_memory.SharedMemory(create=True, size=1)
    first.close()
    first.unlink()
    queue, answer = make_queue(context), context.Queue()
    child = context.Process(target=consumer, args=(queue, count + WARM_UP, answer))
    child.start()
    for number in range(WARM_UP):  # these fault their pages in
        producer(queue, number)
    for _ in range(WARM_UP):
        answer.get()
    began = time.perf_counter()
    for number in range(WARM_UP, count + WARM_UP):
        producer(queue, number)
    answer.get()
    seconds = time.perf_counter() - began
    child.join()
    if child.exitcode != 0:
        raise RuntimeError("the consumer ended with {}".format(child.exitcode))
    return seconds / count


def inside(count):
    """The same work within one process: a frame after the other, in ordinary arrays."""
    for number in range(WARM_UP):
        fill(np.empty(FRAME_ITEMS, np.float64), number)
    began = time.perf_counter()
    for number in range(count):
        frame = np.empty(FRAME_ITEMS, np.float64)
        fill(frame, number)
        check(float(frame.sum()), number)
        del frame
    return (time.perf_counter() - began) / count


def inside_one_array(count):
    """The same in one array that stays, in the processor's cache as far as that is large enough."""
    frame = np.empty(FRAME_ITEMS, np.float64)
    fill(frame, 0)
    began = time.perf_counter()
    for number in range(count):
        fill(frame, number)
        check(float(frame.sum()), number)
    return (time.perf_counter() - began) / count


def frames(quick):
    """36 MB frames, written here and summed there."""
    count, rounds = (2, 1) if quick else (40, 7)
    sides = collections.OrderedDict()
    sides["one process"] = lambda: inside(count)
    sides["one process, one array that stays"] = lambda: inside_one_array(count)
    ours, theirs = lambda context: snp.Queue(WAITING), lambda context: context.Queue(WAITING)
    sides["shared_numpy.Queue"] = lambda: through(ours, produce, consume, count)
    sides["multiprocessing.Queue"] = lambda: through(theirs, produce, consume, count)
    sides["a fresh segment each"] = lambda: through(theirs, produce_segment, consume_segments, count)
    times = _measure.interleave(sides, rounds)
    for name, seconds in times.items():
        _report.figure(name, seconds, "ms")
    for name in ("shared_numpy.Queue", "multiprocessing.Queue"):
        _report.promise(name + ": times as long as one process", times[name] / times["one process"], 1.2, most=True)
        _report.times_as_fast(name, times, name, "a fresh segment each", 8)


PARTS = collections.OrderedDict((part.__name__, part) for part in (creation, frames))


if __name__ == "__main__":
    sys.exit(_report.main(__doc__, PARTS))
