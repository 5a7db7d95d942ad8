"""The latest-value channel within a process: whole frames, what is refused, waits that end."""

import pickle
import signal
import threading
import time

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from frames import LONG, SHAPE, check, in_use, nothing_is_held, pickled, telemetry, write  # noqa: E402, F401


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


def test_frames_that_are_sent_on_are_written_to_by_nobody():
    channel, queue = telemetry(), snp.Queue()
    write(channel, 1)
    frame = channel.read()
    queue.put_many([frame, [frame[1:]], frame.view("u2,u2")])
    lone, (nested,), structures = queue.get_many(3)
    for each in lone, nested, structures, pickled(frame), snp.attach(frame.shm.name):
        assert not each.flags.writeable
        with pytest.raises(ValueError):
            each.flags.writeable = True
    check(lone, 1)
    check(frame, 1)


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
    for shape in -1, (2, -3), (2 ** 40, 2 ** 40), (2 ** 62, 0, 2 ** 62), (0, 2 ** 70):
        with pytest.raises(ValueError):
            snp.Latest(shape)
    with pytest.raises(TypeError):
        snp.Latest("3")
    with pytest.raises(TypeError):
        channel.read_next("soon")
    for wait in channel.read_next, lambda timeout: channel.wait(0, timeout):
        with pytest.raises(ValueError):
            wait(float("nan"))


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
