#!/usr/bin/env python3
"""Locks beside multiprocessing's: acquire and release, alone, and with another process that wants the same lock all the time.

A figure is the time of one acquire and release. In ``contended`` two processes count in shared memory under the lock, by reading,
adding and writing, which loses counts unless the lock holds; the time is from the start of the first to the end of the last,
divided by the number of additions, which are part of it. See README.md in this folder.
"""
import collections
import ctypes
import functools
import multiprocessing
import sys
import time

import shared_numpy as snp

import _measure
import _report
import _workers

OURS, STANDARD = "shared_numpy", "multiprocessing"
CONTEXT = multiprocessing.get_context("fork")
ROUNDS = 15
# Medians of two runs differ by about as much as a twentieth.
NOT_SLOWER = 0.95
MAKERS = {OURS: snp, STANDARD: CONTEXT}


def take(lock, count, _gate):
    """Acquire and release, nothing between; the seconds."""
    acquire, release = lock.acquire, lock.release
    began = time.monotonic()
    for _ in range(count):
        acquire()
        release()
    return time.monotonic() - began


def take_with(lock, count, _gate):
    """The same by the ``with`` statement."""
    began = time.monotonic()
    for _ in range(count):
        with lock:
            pass
    return time.monotonic() - began


def held_by_another(lock, _gate):
    """Whether this process finds the lock taken."""
    return not lock.acquire(False)


def alone_seconds(make_lock, function, count):
    """Seconds for one acquire and release; the lock is checked before and after."""
    lock = make_lock()
    with lock:
        before = _workers.run(functools.partial(held_by_another, lock))[0]
    seconds = _workers.run(functools.partial(function, lock, count))[0]
    with lock:
        after = _workers.run(functools.partial(held_by_another, lock))[0]
    if not (before and after):
        raise RuntimeError("a lock that was held could be had")
    return seconds / count


def count_up(lock, counter, count, gate):
    """Add to the counter under the lock; (when it began, when it ended)."""
    acquire, release = lock.acquire, lock.release
    gate.wait()
    began = time.monotonic()
    for _ in range(count):
        acquire()
        counter[0] += 1
        release()
    return began, time.monotonic()


def count_up_with(lock, counter, count, gate):
    """The same by the ``with`` statement."""
    gate.wait()
    began = time.monotonic()
    for _ in range(count):
        with lock:
            counter[0] += 1
    return began, time.monotonic()


def contended_seconds(make_lock, function, count):
    """Seconds for one addition."""
    lock, counter = make_lock(), CONTEXT.RawArray(ctypes.c_longlong, 1)
    spans = _workers.run(*[functools.partial(function, lock, counter, count) for _ in range(2)])
    if counter[0] != 2 * count:
        raise RuntimeError("{} additions under the lock made {}".format(2 * count, counter[0]))
    return (max(ended for _, ended in spans) - min(began for began, _ in spans)) / (2 * count)


def compare(kind, measure, ways, count, quick):
    """One kind of lock, used in both ways."""
    for way, function in ways:
        sides = collections.OrderedDict(
            (name, functools.partial(measure, getattr(MAKERS[name], kind), function, 50 if quick else count))
            for name in (OURS, STANDARD))
        times = _measure.interleave(sides, 1 if quick else ROUNDS)
        for name, seconds in times.items():
            _report.figure("{}.{}, {}".format(name, kind, way), seconds, "ns")
        _report.times_as_fast("{}, {}".format(kind, way), times, OURS, STANDARD, NOT_SLOWER)


def alone(quick):
    """Acquire and release in one process, nobody else wanting it"""
    for kind in ("Lock", "RLock", "Semaphore"):
        compare(kind, alone_seconds, (("acquire, release", take), ("with", take_with)), 200000, quick)


def contended(quick):
    """Acquire, add, release in two processes at once"""
    compare("Lock", contended_seconds, (("acquire, release", count_up), ("with", count_up_with)), 50000, quick)


PARTS = collections.OrderedDict((part.__name__, part) for part in (alone, contended))


if __name__ == "__main__":
    sys.exit(_report.main(__doc__, PARTS))
