"""How long a NumPy frame takes from one process to another: ``multiprocessing.Queue`` against ``shared_numpy.Queue``.

Two jobs, each through both queues in turn, a producer process on one side and this process on the other:

* handed over: the frames exist when the clock starts; they are put, got and looked at in a few places;
* written and summed: while the clock runs the producer makes each frame and writes every element of it, and the
  consumer sums every element. This is what a program that works on its frames sees.

Each frame's content is checked (the whole of it in the second job); wrong data ends the program with exit code 1.
"""
import argparse
import multiprocessing
import queue
import statistics
import time

import numpy

import shared_numpy as snp

import _support

# Frames that may wait in a queue while the producer writes the next: back-pressure, so that memory stays bounded.
WAITING_FRAMES = 2
# The elements of a frame stay below this: a float32 holds every such integer exactly, and a float64 their sum.
RAMP = 251

HANDED_OVER = "handed over"
WRITTEN = "written and summed"
JOBS = (HANDED_OVER, WRITTEN)
STANDARD = "multiprocessing.Queue"
OURS = "shared_numpy.Queue"
TRANSPORTS = (STANDARD, OURS)


class WrongData(RuntimeError):
    """A frame arrived that is not what was sent."""


def row_of(shape):
    """The last axis of a frame before its number is added."""
    return (numpy.arange(shape[-1]) % RAMP).astype(numpy.float32)


def write(frame, number):
    """Write every element of the frame, in a way that depends on its place and on the frame's number."""
    numpy.add(row_of(frame.shape), numpy.float32(number), out=frame)


def expected_sum(shape, number):
    """What the elements of frame ``number`` sum up to, exactly."""
    elements = int(numpy.prod(shape, dtype=numpy.int64))
    rows = elements // shape[-1]
    return rows * int(row_of(shape).sum(dtype=numpy.int64)) + elements * number


def produce(transport, job, shape, count, frames, ready, go, taken):
    """The producer process: make, write and put ``count`` frames."""
    _support.begin_child()
    make = snp.empty if transport == OURS else numpy.empty
    finished = []
    if job == HANDED_OVER:
        for number in range(count):
            frame = make(shape, numpy.float32)
            write(frame, number)
            finished.append(frame)
    ready.set()
    go.wait()
    for number in range(count):
        if job == HANDED_OVER:
            frame = finished[number]
        else:
            frame = make(shape, numpy.float32)
            write(frame, number)
        frames.put((number, frame))
    taken.wait()  # keep the ready frames until then: giving back their memory takes time as well


def check(job, number, wanted, frame, shape):
    """Raise `WrongData` unless this is frame ``wanted``, with the right content."""
    if number != wanted or frame.shape != shape or frame.dtype != numpy.float32:
        raise WrongData("expected frame {} of shape {}, got {} of {} {}".format(
            wanted, shape, number, frame.shape, frame.dtype))
    if job == WRITTEN:
        got, right = float(frame.sum(dtype=numpy.float64)), expected_sum(shape, number)
        if got != right:
            raise WrongData("frame {} sums up to {}, not {}".format(number, got, right))
        return
    row = row_of(shape)
    lines = frame.reshape(-1, shape[-1])
    for place in (0, len(lines) // 2, len(lines) - 1):
        for column in (0, shape[-1] - 1):
            if lines[place, column] != row[column] + number:
                raise WrongData("frame {} holds {} at {}".format(number, lines[place, column], (place, column)))


def get(frames, producer):
    """The next item; `RuntimeError` when the producer has died instead of sending it."""
    while True:
        try:
            return frames.get(timeout=_support.POLL_S)
        except queue.Empty:
            _support.check_alive([producer])


def wait_for(ready, producer):
    """Wait until the producer has set ``ready``; `RuntimeError` when it has died instead."""
    while not ready.wait(_support.POLL_S):
        _support.check_alive([producer])


def measure(transport, job, shape, count, label):
    """Seconds per frame, of one run with a producer process of its own."""
    # Frames that exist already take no more memory by waiting: there, nobody need wait for anybody.
    waiting = count if job == HANDED_OVER else WAITING_FRAMES
    frames = (snp.Queue if transport == OURS else multiprocessing.Queue)(waiting)
    ready, go, taken = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Event()
    producer = multiprocessing.Process(
        target=produce, args=(transport, job, shape, count, frames, ready, go, taken), name="producer", daemon=True)
    try:
        _support.start([producer])
        wait_for(ready, producer)
        with _support.Progress(label, count) as progress:
            began = time.perf_counter()
            go.set()
            for wanted in range(count):
                number, frame = get(frames, producer)
                check(job, number, wanted, frame, shape)
                if transport == OURS:
                    frame.unlink()  # nobody else needs it: its memory is free as soon as nobody looks at it
                del frame
                progress.update(wanted + 1)
            seconds = time.perf_counter() - began
        taken.set()
        _support.join([producer])
    finally:
        _support.end([producer])
        frames.close()
        frames.join_thread()
    return seconds / count


def shape_of(text):
    """``3000x3000`` as a tuple, for argparse."""
    shape = tuple(int(part) for part in text.lower().split("x"))
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError("{!r} is no shape such as 3000x3000".format(text))
    return shape


def positive(text):
    """A whole number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("{} is less than 1".format(number))
    return number


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=positive, default=10, help="frames in each run (default: %(default)s)")
    parser.add_argument("--shape", type=shape_of, default=(3000, 3000), help="of a frame (default: 3000x3000)")
    parser.add_argument("--repeat", type=positive, default=3, help="runs of each kind; the median counts (default: %(default)s)")
    _support.add_start_method(parser)
    options = parser.parse_args()
    _support.apply_start_method(options)
    size = int(numpy.prod(options.shape, dtype=numpy.int64)) * numpy.dtype(numpy.float32).itemsize
    _support.heading("{} frames of {} float32 ({} each), {} runs, median".format(
        options.frames, "x".join(map(str, options.shape)), _support.megabytes(size), options.repeat))

    seconds = {(job, transport): [] for job in JOBS for transport in TRANSPORTS}
    for turn in range(options.repeat):  # interleaved, so that a busy moment of the machine meets both
        for job in JOBS:
            for transport in TRANSPORTS:
                label = "{}/{} {}, {}".format(turn + 1, options.repeat, job, transport)
                seconds[job, transport].append(measure(transport, job, options.shape, options.frames, label))

    rows = [["ms per frame"] + list(TRANSPORTS) + ["ratio"]]
    for job in JOBS:
        standard, ours = (statistics.median(seconds[job, transport]) for transport in TRANSPORTS)
        rows.append([job, "{:.3f}".format(standard * 1e3), "{:.3f}".format(ours * 1e3), "{:.1f}x".format(standard / ours)])
    _support.table(rows)
    print("\nall frames arrived in order and with the right content", flush=True)
    return 0


if __name__ == "__main__":
    _support.run(main)
