"""A camera and its viewers: one process writes frames, others look at the newest one, each as often as it can.

The camera waits for nobody, the viewers copy nothing: a slow viewer passes frames over and sees a new one each time. Each
frame is looked at as a whole; one that is not what the camera wrote ends the program with exit code 1.
"""
import argparse
import multiprocessing
import time

import numpy

import shared_numpy as snp

import _support

# What each viewer does with a frame besides checking it, in seconds.
PACES_S = (0.0, 0.01, 0.05)
WAIT_S = 0.5


class WrongData(RuntimeError):
    """A frame was seen that is not what was written."""


def write(frame, number):
    """Every element of a frame tells its number."""
    frame[...] = number % 251


def check(frame, number):
    """Raise `WrongData` unless the whole of the frame is as `write` left it."""
    if not (frame == number % 251).all():
        raise WrongData("frame {} is torn, or another".format(number))


def film(channel, count, interval):
    """The camera process: a frame each ``interval`` seconds."""
    _support.begin_child()
    due = time.perf_counter()
    for number in range(1, count + 1):
        frame = channel.next_frame()
        write(frame, number)
        channel.publish(frame)
        due += interval
        time.sleep(max(0.0, due - time.perf_counter()))


def look(channel, count, pace, results):
    """A viewer process: looks at the newest frame until it has seen the last one, or the camera has ended."""
    _support.begin_child()
    seen = 0
    for frame in channel:
        check(frame, channel.last_read)
        seen += 1
        if channel.last_read == count:
            break
        time.sleep(pace)
    results.put((pace, seen, channel.last_read))


def watch(channel, count, processes):
    """Look on in the main process, now and then, until the last frame was published."""
    with _support.Progress("frames", count) as progress:
        number = 0
        while number < count:
            try:
                number, frame = channel.wait(number, WAIT_S)
            except TimeoutError:
                _support.check_alive(processes)  # ends here when the camera was killed
                continue
            check(frame, number)
            progress.update(number)


def shape_of(text):
    """``640x480x3`` as a shape."""
    return tuple(int(length) for length in text.split("x"))


def main():
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=300, help="how many the camera writes")
    parser.add_argument("--shape", type=shape_of, default=(1080, 1920, 3), help="of a frame of bytes, like 640x480x3")
    parser.add_argument("--rate", type=float, default=100.0, help="frames per second")
    _support.add_start_method(parser)
    options = parser.parse_args()
    _support.apply_start_method(options)
    _support.heading("A camera and {} viewers".format(len(PACES_S)))

    channel = snp.Latest(options.shape, numpy.uint8)
    results = multiprocessing.Queue()
    viewers = [multiprocessing.Process(target=look, args=(channel, options.frames, pace, results),
                                       name="viewer {}".format(number), daemon=True)
               for number, pace in enumerate(PACES_S, 1)]
    camera = multiprocessing.Process(target=film, args=(channel, options.frames, 1 / options.rate), name="camera", daemon=True)
    processes = viewers + [camera]
    began = time.perf_counter()
    try:
        _support.start(processes)
        watch(channel, options.frames, processes)
        _support.join(processes)
        seconds = time.perf_counter() - began
        found = sorted(results.get() for _ in viewers)
    finally:
        _support.end(processes)
    rows = [("a viewer that works", "has seen", "passed over")]
    rows += [("{:.0f} ms on each frame".format(pace * 1000), str(seen), str(last - seen)) for pace, seen, last in found]
    _support.table(rows)
    if any(last != options.frames for _, _, last in found):
        raise WrongData("a viewer has not seen the last frame")
    nbytes = int(numpy.prod(options.shape, dtype=numpy.int64))
    print("\n{} frames of {} in {:.1f} s; every frame that was seen was whole, and the last one was seen by all".format(
        options.frames, _support.megabytes(nbytes), seconds))
    return 0


if __name__ == "__main__":
    _support.run(main)
