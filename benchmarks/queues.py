#!/usr/bin/env python3
"""The queue beside multiprocessing's, and beside a ring made by hand for one producer and one consumer.

Producer and consumer are two processes. In all parts but ``pingpong`` and ``idle`` the producer puts as fast as the queue takes,
which has room for 8 items (2 in ``work``), whatever the implementation; a figure is the time from the moment at which both have
warmed up to the moment at which the last item was got and checked, divided by the number of items. Items carry their number, or
a mark, at both ends, and every 64th small one is compared as a whole, within the time; a wrong one ends the run. See README.md in
this folder.
"""
import collections
import functools
import multiprocessing
import sys
import time

import numpy as np

import shared_numpy as snp

import _measure
import _report
import _ring
import _workers
import arrays

SLOTS = 8
# Who has put an array by copy may change it at once. multiprocessing's queue pickles it later: there it may be changed when as
# many others were put as the queue has room for.
TURNS = SLOTS + 2
KIB_ITEMS = 128  # of 8 bytes
MIB_ITEMS = 128 * 1024
LARGE_ITEMS = 4500000  # 36 MB
LARGE_ARRAYS = 4
WARM_UP = 200
WARM_UP_LARGE = SLOTS + 3
PRODUCERS = CONSUMERS = 4
IDLE_S = 10
# To wake up costs 0.08 ms where the promise was made. Who waits does so 8 times in the first 0.4 s, then once a second.
IDLE_PERCENT = 0.1
OURS, STANDARD, RING = "shared_numpy.Queue", "multiprocessing.Queue", "a ring made by hand"
IN_TURN = ", {} arrays in turn".format(TURNS)


def ours():
    """A queue of ours."""
    return snp.Queue(SLOTS)


def standard():
    """A queue of the standard library."""
    return multiprocessing.get_context("fork").Queue(SLOTS)


def ring(items):
    """What makes a ring for arrays of that size."""
    return functools.partial(_ring.Ring, SLOTS, items, np.int64)


def wrong(what, number):
    """The data is not what it should be."""
    raise RuntimeError("item {} is wrong: {}".format(number, what))


# --- items: a maker runs in the producer, a checker in the consumer; each returns the function for one item ---

def numbered(items, turns=1):
    """Ordinary arrays with their number at both ends; `turns` of them, used in turn."""
    frames = [np.arange(items) for _ in range(turns)]

    def make(number):
        frame = frames[number % turns]
        frame[0] = frame[-1] = number
        return frame

    return make


def check_numbered(items):
    """For `numbered`."""
    inner = np.arange(items)[1:-1]

    def check(frame, number):
        if frame.item(0) != number or frame.item(-1) != number:
            wrong("its ends are {} and {}".format(frame.item(0), frame.item(-1)), number)
        if not number & 63 and not (frame.shape == (items,) and np.array_equal(frame[1:-1], inner)):
            wrong("what lies between its ends", number)

    return check


def constant(empty, items):
    """Arrays that do not change, and are put again and again; made by `empty`."""
    frames = [empty(items, np.int64) for _ in range(LARGE_ARRAYS)]
    for turn, frame in enumerate(frames):
        frame[:] = np.arange(turn, turn + items)
    return lambda number: frames[number % LARGE_ARRAYS]


def check_constant(items):
    """For `constant`; compared as a whole while warming up."""
    plain = np.arange(items)

    def check(frame, number):
        turn = number % LARGE_ARRAYS
        if frame.item(0) != turn or frame.item(-1) != turn + items - 1:
            wrong("its ends are {} and {}".format(frame.item(0), frame.item(-1)), number)
        if number < LARGE_ARRAYS and not np.array_equal(frame - turn, plain):
            wrong("what lies between its ends", number)

    return check


def template(count):
    """A dict of so many arrays of 24 to 256 bytes, and of five scalars."""
    record = {"array{}".format(i): np.arange(3 + 4 * (i % 8), dtype=(np.float64, np.float32)[i % 2]) for i in range(count)}
    record.update(number=0, seconds=1.5, camera="left", valid=True, comment=None)
    return record


def records(count):
    """Such dicts, the number among the scalars and in the first array."""
    made = [template(count) for _ in range(TURNS)]

    def make(number):
        record = made[number % TURNS]
        record["number"] = record["array0"][0] = number
        return record

    return make


def check_records(count):
    """For `records`."""
    plain = template(count)

    def check(record, number):
        if record["number"] != number or record["array0"].item(0) != number or len(record) != count + 5:
            wrong("it is {}".format(record), number)
        if not number & 63:
            record["array0"][0] = record["number"] = 0
            for key, value in plain.items():
                got = record[key]
                same_kind = type(got) is type(value) and getattr(got, "dtype", 0) == getattr(value, "dtype", 0)
                if not (same_kind and np.array_equal(got, value)):
                    wrong("its {} is {}".format(key, got), number)

    return check


# --- one producer, one consumer ---

def produce(channel, make_maker, warm_up, count, gate):
    """Puts numbered items; when it began."""
    make, put = make_maker(), channel.put
    for number in range(warm_up):
        put(make(number))
    gate.wait()
    began = time.monotonic()
    for number in range(warm_up, warm_up + count):
        put(make(number))
    return began


def consume(channel, make_checker, warm_up, count, gate):
    """Gets and checks them; when it ended."""
    check, get = make_checker(), channel.get
    for number in range(warm_up):
        check(get(), number)
    gate.wait()
    for number in range(warm_up, warm_up + count):
        check(get(), number)
    return time.monotonic()


def through(open_channel, make_maker, make_checker, warm_up, count):
    """Seconds for an item."""
    channel = open_channel()
    try:
        began, ended = _workers.run(
            functools.partial(produce, channel, make_maker, warm_up, count),
            functools.partial(consume, channel, make_checker, warm_up, count))
    finally:
        channel.close()
    return (ended - began) / count


def side(open_channel, make_maker, make_checker, count, quick, warm_up=WARM_UP):
    """`through` for one implementation, ready to be measured."""
    return functools.partial(
        through, open_channel, make_maker, make_checker,
        LARGE_ARRAYS if quick else warm_up, min(count, 20) // 3 if quick else count)


def show(times, unit="us"):
    """All figures of a part."""
    for name, seconds in times.items():
        _report.figure(name, seconds, unit)


def copies(items, counts, goals, quick, in_turn=False):
    """A lone ordinary array put by copy: each queue gets as few arrays to put as it can do with. `in_turn`: and all as many
    as the standard one."""
    cases = [(OURS, ours, 1, ""), (RING, ring(items), 1, ""), (STANDARD, standard, TURNS, "")]
    if in_turn:
        cases += [(name, open_channel, TURNS, IN_TURN) for name, open_channel, _, _ in cases[:2]]
    checker, sides = functools.partial(check_numbered, items), collections.OrderedDict()
    for name, open_channel, turns, how in cases:
        sides[name + how] = side(open_channel, functools.partial(numbered, items, turns), checker, counts[name], quick)
    times = _measure.interleave(sides, 1 if quick else 11)
    show(times)
    for other, goal in goals:
        _report.times_as_fast(OURS, times, OURS, other, goal)
    if in_turn:
        for other in (RING + IN_TURN, STANDARD):
            _report.ratio("{}: times as fast as {}".format(OURS + IN_TURN, other), times[other] / times[OURS + IN_TURN])


def small(quick):
    """An ordinary array of 1 KiB, by copy"""
    copies(KIB_ITEMS, {OURS: 50000, RING: 50000, STANDARD: 4000}, ((RING, 1), (STANDARD, 12)), quick)


def medium(quick):
    """An ordinary array of 1 MiB, by copy; put again and again, and ten of them in turn, which no cache holds"""
    copies(MIB_ITEMS, {OURS: 2000, RING: 2000, STANDARD: 100}, ((RING, 0.95), (STANDARD, 40)), quick, in_turn=True)


def handles(quick):
    """Arrays that are in shared memory already, by handle: 36 MB and 1 KiB, beside multiprocessing's queue and 36 MB"""
    sides = collections.OrderedDict()
    large, kib, standard_large = "36 MB, by handle", "1 KiB, by handle", STANDARD + ", 36 MB"
    large_items = MIB_ITEMS if quick else LARGE_ITEMS
    for name, open_channel, empty, items, count in (
            (large, ours, snp.empty, large_items, 20000), (kib, ours, snp.empty, KIB_ITEMS, 20000),
            (standard_large, standard, np.empty, large_items, 6)):
        sides[name] = side(
            open_channel, functools.partial(constant, empty, items), functools.partial(check_constant, items), count, quick,
            WARM_UP_LARGE if items == large_items else WARM_UP)
    times = _measure.interleave(sides, 1 if quick else 7)
    show(times)
    _report.promise("36 MB: microseconds", times[large] * 1e6, 3, most=True)
    _report.promise("36 MB: times as long as 1 KiB", times[large] / times[kib], 1.2, most=True)
    _report.times_as_fast("36 MB", times, large, standard_large, 10000)


def work(quick):
    """36 MB frames, written by the producer and summed by the consumer, beside the same work in one process"""
    count = 2 if quick else 40
    sides = collections.OrderedDict()
    one, stays = "one process, a fresh ordinary array for each", "one process, one array that stays"
    sides[OURS] = lambda: arrays.through(lambda _context: snp.Queue(arrays.WAITING), arrays.produce, arrays.consume, count)
    sides[one] = lambda: arrays.inside(count)
    sides[stays] = lambda: arrays.inside_one_array(count)
    times = _measure.interleave(sides, 1 if quick else 11)
    show(times, "ms")
    _report.promise("times as long as with fresh arrays", times[OURS] / times[one], 1.2, most=True)
    _report.ratio("times as long as with one array, which the cache holds in part", times[OURS] / times[stays])


def dicts(quick):
    """A dict of ten small arrays and five scalars, and one of five and five"""
    for count in (10, 5):
        sides = collections.OrderedDict()
        for name, open_channel, items in ((OURS, ours, 10000), (STANDARD, standard, 2000)):
            sides[name] = side(
                open_channel, functools.partial(records, count), functools.partial(check_records, count), items, quick)
        times = _measure.interleave(sides, 1 if quick else 9)
        print("  {} arrays, five scalars".format(count))
        show(times)
        _report.times_as_fast(OURS, times, OURS, STANDARD, 5)


# --- there and back ---

def ask(there, back, warm_up, count, gate):
    """Sends 64 bytes and waits for 64 others; (median, 99th percentile) of the times that took."""
    frame, took = np.arange(8), []
    for number in range(warm_up + count):
        if number == warm_up:
            gate.wait()
        frame[0] = number
        began = time.perf_counter()
        there.put(frame)
        answer = back.get()
        ended = time.perf_counter()
        if answer.item(0) != number or answer.item(7) != 70:
            wrong("the answer is {}".format(answer), number)
        if number >= warm_up:
            took.append(ended - began)
    took.sort()
    return took[len(took) // 2], took[len(took) * 99 // 100]


def answer_all(there, back, warm_up, count, gate):
    """The other side of `ask`."""
    frame = np.arange(8) * 10
    for number in range(warm_up + count):
        if number == warm_up:
            gate.wait()
        question = there.get()
        if question.item(0) != number or question.item(7) != 7:
            wrong("the question is {}".format(question), number)
        frame[0] = number
        back.put(frame)


def round_trips(open_channel, warm_up, count):
    """(median, 99th percentile) of one round."""
    there, back = open_channel(), open_channel()
    try:
        return _workers.run(
            functools.partial(ask, there, back, warm_up, count), functools.partial(answer_all, there, back, warm_up, count))[0]
    finally:
        there.close()
        back.close()


def pingpong(quick):
    """64 bytes there and 64 back, one at a time: the middle time for both, and the one that 1 of 100 exceeds"""
    warm_up, count = (8, 20) if quick else (WARM_UP, 5000)
    sides = collections.OrderedDict()
    for name, open_channel in ((OURS, ours), (RING, ring(8)), (STANDARD, standard)):
        sides[name] = functools.partial(round_trips, open_channel, warm_up, count if open_channel is not standard else count // 5)
    found = _measure.samples(sides, 1 if quick else 9)
    middle = {name: _measure.median([p50 for p50, _ in values]) for name, values in found.items()}
    late = {name: _measure.median([p99 for _, p99 in values]) for name, values in found.items()}
    for name in sides:
        _report.figure(name + ", p50", middle[name])
        _report.figure(name + ", p99", late[name])
    _report.promise("p50: times as long as the ring's", middle[OURS] / middle[RING], 2, most=True)
    _report.promise("p99: times as long as p50", late[OURS] / middle[OURS], 20, most=True)


def wait_for_one(channel, gate):
    """Waits for an item; the CPU time that took."""
    gate.wait()
    before = time.process_time()
    if channel.get() != "at last":
        wrong("another one", 0)
    return time.process_time() - before


def put_late(channel, seconds, gate):
    """Lets `wait_for_one` wait."""
    gate.wait()
    time.sleep(seconds)
    channel.put("at last")


def waiting(open_channel, seconds):
    """CPU time of a process that waits so long, as a part of that time."""
    channel = open_channel()
    try:
        return _workers.run(
            functools.partial(wait_for_one, channel), functools.partial(put_late, channel, seconds))[0] / seconds
    finally:
        channel.close()


def idle(quick):
    """The CPU time of a process that waits ten seconds in get"""
    seconds = 0.2 if quick else IDLE_S
    times = _measure.interleave(
        collections.OrderedDict((name, functools.partial(waiting, open_channel, seconds))
                                for name, open_channel in ((OURS, ours), (STANDARD, standard))), 1 if quick else 3)
    for name, part in times.items():
        print("  {:<66} {:10.3f} %".format(name + ", of one CPU", part * 100))
    _report.promise("percent of a CPU", times[OURS] * 100, IDLE_PERCENT, most=True)


# --- many to many ---

def produce_as(channel, producer, warm_up, count, gate):
    """One of several producers; when it began."""
    make, put, base = numbered(KIB_ITEMS, TURNS), channel.put, producer << 32
    for number in range(warm_up):
        put(make(base + number))
    gate.wait()
    began = time.monotonic()
    for number in range(warm_up, warm_up + count):
        put(make(base + number))
    return began


def consume_any(channel, warm_up, count, gate):
    """One of several consumers: what each producer sends comes in order; (when it ended, the sum of the numbers)."""
    check, get, last, total = check_numbered(KIB_ITEMS), channel.get, [-1] * PRODUCERS, 0
    for turn in range(warm_up + count):
        if turn == warm_up:
            gate.wait()
        frame = get()
        mark = frame.item(0)
        check(frame, mark)
        producer, number = mark >> 32, mark & 0xFFFFFFFF
        if number <= last[producer]:
            wrong("it comes after {}".format(last[producer]), number)
        last[producer] = number
        total += number
    return time.monotonic(), total


def many_to_many(open_channel, warm_up, count):
    """Seconds for an item."""
    channel = open_channel()
    try:
        results = _workers.run(*(
            [functools.partial(produce_as, channel, producer, warm_up, count) for producer in range(PRODUCERS)]
            + [functools.partial(consume_any, channel, warm_up, count) for _ in range(CONSUMERS)]))
    finally:
        channel.close()
    if sum(total for _, total in results[PRODUCERS:]) != PRODUCERS * sum(range(warm_up + count)):
        raise RuntimeError("items are missing, or came twice")
    return (max(ended for ended, _ in results[PRODUCERS:]) - min(results[:PRODUCERS])) / (count * PRODUCERS)


def many(quick):
    """Ordinary arrays of 1 KiB by copy, from four producers to four consumers"""
    sides = collections.OrderedDict()
    for name, open_channel, count in ((OURS, ours, 10000), (STANDARD, standard, 1000)):
        sides[name] = functools.partial(many_to_many, open_channel, 8 if quick else WARM_UP, 20 if quick else count)
    times = _measure.interleave(sides, 1 if quick else 9)
    show(times)
    _report.times_as_fast(OURS, times, OURS, STANDARD, 10)


PARTS = collections.OrderedDict((part.__name__, part) for part in (
    small, medium, handles, work, dicts, pingpong, idle, many))


if __name__ == "__main__":
    sys.exit(_report.main(__doc__, PARTS))
