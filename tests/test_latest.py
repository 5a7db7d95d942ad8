"""The latest-value channel: whole frames, waits that end, deaths, every start method."""

import gc
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from programs import needs_tracker  # noqa: E402

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


def until(is_so):
    end = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def run(context, target, *args):
    child = context.Process(target=target, args=args)
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


# -- children -------------------------------------------------------------------------


def write_some(channel, count):
    for _ in range(count):
        write(channel, channel.number + 1)


def write_for_ever(channel):
    while True:
        write(channel, channel.number + 1)


def write_until(channel, stop):
    while not stop.is_set():
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


# -- in one process -------------------------------------------------------------------


def test_the_newest_is_read():
    channel = telemetry()
    assert (channel.shape, channel.dtype) == (SHAPE, np.dtype("u4"))
    assert channel.read() is None and channel.number == channel.last_read == 0
    for number in range(1, 12):
        write(channel, number)
        assert channel.number == number
        for frame in channel.read(), channel.read(), channel.wait()[1]:
            check(frame, number)
        assert channel.last_read == number and channel.wait(number - 1)[0] == number
    write(channel, 12)
    check(channel.read_next(), 12)
    assert repr(channel) == "<Latest(shape=(64, 257), dtype=uint32, number=12)>"


def test_frames_are_shared_arrays_that_nobody_writes_to():
    channel = telemetry()
    frame = channel.next_frame()
    assert type(frame) is snp.SharedNDArray and frame.flags.writeable
    write_to = frame[1]
    frame[:] = 1
    channel.publish(frame)
    read = channel.read()
    assert type(read) is snp.SharedNDArray
    for each in frame, read, read[2:], read.T:
        with pytest.raises(ValueError):
            each[0, 0] = 2
        with pytest.raises(ValueError):
            each.flags.writeable = True
    assert np.shares_memory(read, channel.read()) and not np.shares_memory(read, channel.next_frame())
    write_to[:] = 3  # the one thing that numpy cannot take back
    assert read[1, 0] == frame[1, 0] == 3
    # Published again it is copied like any array.
    before = in_use()
    assert channel.publish(frame) == 2 and in_use() > before
    assert not (channel.read() != read).any()


def test_only_the_frame_itself_is_handed_over():
    channel, other = telemetry(), telemetry()
    frame = channel.next_frame()
    frame[:] = 5
    for given in frame[:], frame.T.T, snp.array(frame), frame.view(np.ndarray):
        channel.publish(given)
        given[0, 0] = 6
        check(channel.read(), 5)
        given[0, 0] = 5
    other.publish(frame)
    frame[:] = 7
    check(other.read(), 5)
    kept = channel.next_frame()
    kept[:] = 8
    channel.publish(frame)
    channel.publish(kept)
    check(channel.read(), 8)


RECORD = [("t", "f8"), ("xyz", "f4", 3)]


@pytest.mark.parametrize("shape, dtype, value", [
    ((), "f8", 1.5),
    (3, "i2", [1, -2, 3]),
    ((0, 5), "u1", np.empty((0, 5), "u1")),
    ((2, 2), "U5", [["a", "b"], ["", "long5"]]),
    ((2,), "M8[s]", ["2020-01-01", "2021-01-01"]),
    ((2,), RECORD, np.ones(2, RECORD)),
    ((2,), ("f4", (3,)), np.ones((2, 3), "f4")),  # as numpy has it: of shape (2, 3)
    ((2,), ">i4", np.array([1, 2], "<i4")),
    ((3, 3), "u1", np.arange(9, dtype="u1").reshape(3, 3).T)])
def test_shapes_and_dtypes(shape, dtype, value):
    channel = snp.Latest(shape, dtype)
    expected = np.asarray(value, channel.dtype)
    for publication in range(2):
        if publication:
            frame = channel.next_frame()
            frame[...] = value
        else:
            frame = value
        channel.publish(frame)
        read = channel.read()
        assert read.shape == expected.shape == channel.shape and read.dtype == channel.dtype
        assert read.tobytes() == expected.tobytes()
    received = pickled(channel)
    assert (received.shape, received.dtype) == (channel.shape, channel.dtype)
    assert received.read().tobytes() == expected.tobytes()


def pickled(channel):
    """The channel as another object, as another process would have it."""
    data, published = snp.reduction.dumps(channel)
    del published
    return snp.reduction.loads(data)


def test_what_does_not_fit_is_refused():
    channel = telemetry()
    for wrong in (np.zeros(SHAPE[::-1], "u4"), np.zeros((1,) + SHAPE, "u4"), 7, np.zeros(SHAPE[1:], "u4"), snp.zeros((0,), "u4")):
        with pytest.raises(ValueError):
            channel.publish(wrong)
    for wrong in np.zeros(SHAPE, "i4"), np.zeros(SHAPE, "f8"), np.ma.zeros(SHAPE, "u4"):
        with pytest.raises(TypeError):
            channel.publish(wrong)
    assert channel.read() is None and channel.number == 0
    for dtype in object, [("a", object)]:
        with pytest.raises(TypeError):
            snp.Latest(3, dtype)
    for shape in -1, (2, -3), (2 ** 40, 2 ** 40):
        with pytest.raises(ValueError):
            snp.Latest(shape)
    with pytest.raises(TypeError):
        snp.Latest("3")
    with pytest.raises(TypeError):
        channel.read_next("soon")


def test_waits_end_in_time():
    channel = telemetry()
    for timeout in 0, -1, 0.05:
        with pytest.raises(TimeoutError):
            channel.read_next(timeout)
    write(channel, 1)
    check(channel.read_next(0), 1)
    with pytest.raises(TimeoutError):
        channel.read_next(0.01)
    with pytest.raises(TimeoutError):
        channel.wait(after=1, timeout=0.01)
    with pytest.raises(TimeoutError):
        channel.wait(5, 0)


def test_threads_wait_for_each_new_frame():
    channel = telemetry()
    seen = []

    def read():
        number = 0
        while number < 5:
            number, frame = channel.wait(number, LONG)
            seen.append(check(frame, number))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 6):
        time.sleep(0.02)
        write(channel, number)
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert seen.count(5) == 3


def test_threads_publish_one_after_the_other():
    channel = telemetry()
    numbers = []

    def publish():
        for _ in range(200):
            frame = channel.next_frame()
            frame[:] = 1
            numbers.append(channel.publish(frame))

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 801)) and channel.number == 800


def test_a_channel_without_readers_stays_small():
    channel = telemetry()
    nbytes = channel.next_frame().nbytes
    before = in_use()
    for number in range(1, 200):
        write(channel, number)
    # Four frames, and what is being closed.
    assert in_use() - before < 7 * nbytes


def test_frames_outlive_the_channel():
    channel = telemetry()
    kept = []
    for number in range(1, 12):
        write(channel, number)
        kept.append(channel.read())
    del channel
    for number, frame in enumerate(kept, 1):
        check(frame, number)


def test_plain_pickle_refuses():
    with pytest.raises(RuntimeError):
        pickle.dumps(telemetry())


class Interrupt(Exception):
    pass


def test_a_signal_ends_a_wait():
    channel = telemetry()

    def handler(*_):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for wait in channel.read_next, channel.wait, lambda: next(iter(channel)):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupt):
                wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    write(channel, 1)
    check(channel.read_next(LONG), 1)


def test_a_writer_that_stops_ends_the_waits():
    channel = telemetry()
    assert not channel.has_writer
    channel.stop_writing()
    with channel.writing() as same:
        assert same is channel and channel.has_writer
        write(channel, 1)
    assert not channel.has_writer
    assert [int(frame[0, 0]) for frame in channel] == [1]
    with pytest.raises(EOFError) as raised:
        channel.read_next()
    assert not isinstance(raised.value, snp.PeerDied)
    other = pickled(channel)
    write(other, 2)
    assert channel.has_writer
    check(channel.read_next(), 2)
    del other
    with pytest.raises(EOFError):
        channel.read_next()


# -- between processes ----------------------------------------------------------------


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
