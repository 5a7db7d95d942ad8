"""The latest-value channel between processes: every start method, one writer at a time, deaths, forks."""

import multiprocessing
import os
import random
import signal
import threading
import time

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from frames import LONG, SHAPE, check, nothing_is_held, telemetry, write  # noqa: E402, F401
from programs import needs_tracker  # noqa: E402


def until(is_so):
    end = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def run(context, target, *args):
    child = context.Process(target=target, args=args)
    child.daemon = True  # some work for ever: a test that fails leaves nobody
    child.start()
    return child


def ended(*children):
    for child in children:
        child.join(LONG)
        assert child.exitcode == 0


def killed(child):
    os.kill(child.pid, signal.SIGKILL)
    child.join(LONG)
    assert child.exitcode  # 255 where a fork server of 3.6 tells it


# -- children -------------------------------------------------------------------------


def write_some(channel, count):
    for _ in range(count):
        write(channel, channel.number + 1)


def write_for_ever(channel):
    while True:
        write(channel, channel.number + 1)


def write_and_stay(channel, done):
    write(channel, channel.number + 1)
    done.wait(LONG)


def read_until(channel, last):
    kept = []
    while channel.last_read < last:
        before = channel.last_read
        frame = channel.read_next(LONG)
        assert channel.last_read > before
        check(frame, channel.last_read)
        if channel.last_read % 7 == 0:
            kept.append((channel.last_read, frame))
            del kept[:-3]
    for number, frame in kept:
        check(frame, number)


def read_for_ever(channel):
    while True:
        check(channel.read_next(LONG), channel.last_read)


def try_to_write(channel, result):
    try:
        write(channel, channel.number + 1)
        result.store(1)
    except RuntimeError as error:
        assert "has a writer" in str(error)
        result.store(2)


def iterate(channel, ready, result):
    ready.set()
    try:
        for frame in channel:
            check(frame, channel.last_read)
        result.store(1)
    except snp.PeerDied:
        result.store(2)


# -- tests ----------------------------------------------------------------------------


@needs_tracker
def test_no_frame_is_torn(context):
    channel, last = telemetry(), 400
    readers = [run(context, read_until, channel, last) for _ in range(3)]
    writer = run(context, write_some, channel, last)
    read_until(channel, last)
    ended(writer, *readers)
    check(channel.read(), last)


def test_many_readers_and_one_that_never_reads():
    context = multiprocessing.get_context("fork")
    channel, last, done = telemetry(), 150, snp.Event()
    idle = run(context, wait_for, done, channel)
    readers = [run(context, read_until, channel, last) for _ in range(12)]
    write_some(channel, last)
    ended(*readers)
    done.set()
    ended(idle)


def wait_for(done, channel):
    assert done.wait(LONG)


def test_a_channel_travels_at_any_time(context):
    channel, queue = telemetry(), context.Queue()
    write(channel, 1)
    child = run(context, receive_channel, queue)
    queue.put({"channel": channel})
    write(channel, 2)
    ended(child)
    queue.close()
    queue.join_thread()


def receive_channel(queue):
    channel = queue.get(timeout=LONG)["channel"]
    assert channel.number >= 1
    check(channel.wait(1, LONG)[1], 2)


@needs_tracker
def test_frames_can_be_put_into_queues_and_outlive_their_writer(context):
    channel, queue = telemetry(), context.Queue()
    ended(run(context, write_some, channel, 3))
    frame = channel.read_next(LONG)
    queue.put(frame)
    del channel
    received = queue.get(timeout=LONG)
    assert np.shares_memory(received, frame) or (received == frame).all()
    assert not received.flags.writeable
    del frame
    check(received, 3)
    queue.close()
    queue.join_thread()


@needs_tracker
def test_one_writer_at_a_time(context):
    channel, done, result = telemetry(), snp.Event(), snp.AtomicInt()
    writer = run(context, write_and_stay, channel, done)
    check(channel.read_next(LONG), 1)
    for attempt in channel.become_writer, lambda: write(channel, 2):
        with pytest.raises(RuntimeError):
            attempt()
    ended(run(context, try_to_write, channel, result))
    assert result.load() == 2 and channel.number == 1
    done.set()
    ended(writer)
    write(channel, 2)
    ended(run(context, try_to_write, channel, result))
    assert result.load() == 2
    channel.stop_writing()
    ended(run(context, try_to_write, channel, result))
    assert result.load() == 1
    check(channel.wait()[1], 3)


@needs_tracker
def test_a_writers_end_is_no_death(context):
    channel, ready, result = telemetry(), snp.Event(), snp.AtomicInt()
    reader = run(context, iterate, channel, ready, result)
    assert ready.wait(LONG)
    ended(run(context, write_some, channel, 2))
    ended(reader)
    assert result.load() == 1


@needs_tracker
def test_a_killed_writer_is_told_of_and_replaced(context):
    channel, ready, result = telemetry(), snp.Event(), snp.AtomicInt()
    reader = run(context, iterate, channel, ready, result)
    assert ready.wait(LONG)
    writer = run(context, write_for_ever, channel)
    channel.wait(20, LONG)
    killed(writer)
    ended(reader)
    assert result.load() == 2
    until(lambda: not channel.has_writer)
    number, frame = channel.wait()
    check(frame, number)
    with pytest.raises(snp.PeerDied):
        channel.wait(number, LONG)
    write(channel, number + 1)
    check(channel.read(), number + 1)


@needs_tracker
def test_writers_and_readers_that_are_killed_at_any_moment():
    context = multiprocessing.get_context("fork")
    moments = random.Random(7)
    channel = telemetry()
    readers = [run(context, read_for_ever, channel) for _ in range(2)]
    for _ in range(12):
        # It may be killed before the first one; the next one is at the same place.
        writer = run(context, write_for_ever, channel)
        seen = channel.number
        channel.wait(seen, LONG)
        time.sleep(moments.random() / 50)
        killed(writer)
        killed(readers.pop(0))
        readers.append(run(context, read_for_ever, channel))
        number, frame = channel.wait()
        check(frame, number)
    for reader in readers:
        killed(reader)
    until(lambda: not channel.has_writer)
    number = channel.number
    for each in range(number + 1, number + 10):
        write(channel, each)
        check(channel.read(), each)


def test_a_child_does_not_write_as_its_parent():
    channel = telemetry()
    write(channel, 1)
    frame = channel.next_frame()
    frame[:] = 2
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check(channel.read(), 1)
            try:
                channel.publish(frame)
            except RuntimeError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert channel.has_writer and channel.publish(frame) == 2
    check(channel.read(), 2)


def test_a_handler_that_forks_leaves_both_waiting():
    channel, told = telemetry(), snp.AtomicInt()
    children = []

    def handler(*_):
        pid = os.fork()
        if pid:
            children.append(pid)

    before = signal.signal(signal.SIGALRM, handler)
    parent = os.getpid()
    timer = threading.Timer(1, lambda: write(channel, 1))
    timer.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        check(channel.read_next(LONG), 1)
        told.add()
    finally:
        if os.getpid() != parent:
            os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    timer.join()
    assert len(children) == 1 and os.waitpid(children[0], 0)[1] == 0
    assert told.load() == 2


def test_what_was_let_go_of_raises():
    channel = telemetry()
    write(channel, 1)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            snp.drop_inherited()
            for use in (channel.read, channel.read_next, channel.become_writer, lambda: channel.number,
                        lambda: channel.publish(np.zeros(SHAPE, "u4"))):
                try:
                    use()
                except ValueError:
                    continue
                break
            else:
                channel.stop_writing()
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
