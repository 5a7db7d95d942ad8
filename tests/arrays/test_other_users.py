"""A family whose members change their user after a fork: a server that begins as root and lets others do the work."""

import os
import subprocess

import pytest

pytest.importorskip("numpy")

import shared_numpy as snp
from programs import DISABLED, needs_tracker, run

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else"),
    pytest.mark.skipif("abstract" in DISABLED, reason="another user does not find the tracker's socket file")]

# What is made in segments of their own: nobody has them by the fork.
HEAD = """
    import os, pickle, struct, sys
    import numpy as np
    import shared_numpy as snp
    from multiprocessing.reduction import ForkingPickler

    SIZE = 80 << 20

    def send(pipe, data):
        os.write(pipe, struct.pack("<I", len(data)) + data)

    def receive(pipe):
        size, = struct.unpack("<I", os.read(pipe, 4))
        return os.read(pipe, size)

    def give(pipe, number):
        a = snp.zeros(SIZE, dtype="u1")
        a[-1] = number
        send(pipe, bytes(ForkingPickler.dumps(a)))
        return a

    def take(pipe, number):
        a = pickle.loads(receive(pipe))
        assert isinstance(a, snp.SharedNDArray) and a[-1] == number
        a[0] = number
        return a

    def worker(work, *arguments):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setgid(65534)
                os.setuid(65534)
                work(*arguments)
                status = 0
            finally:
                os._exit(status)
        return pid

    def end(*pids):
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0

    inherited = snp.full(3, 5)
    when = sys.argv[1]
    if when == "before":
        ForkingPickler.dumps(inherited)
"""
# Gives first, so that the tracker is its, unless there is one.
CHILD_FIRST = """
    def starts(pipe):
        mine = snp.full(3, 6)
        send(pipe, bytes(ForkingPickler.dumps(mine)))
        receive(hold)

    if when == "by a child":
        r, w = os.pipe()
        hold, release = os.pipe()
        starter = worker(starts, w)
        assert pickle.loads(receive(r)).tolist() == [6, 6, 6]
"""
WHEN = ["before", "after", "by a child"]


def become_nobody():
    os.setgid(65534)
    os.setuid(65534)


def script(when, text):
    """The whole of it; skips where the child may not run the tracker's executable."""
    if when == "by a child":
        tracker = os.path.join(os.path.dirname(snp.__file__), "shared-numpy-tracker")
        if subprocess.call(["test", "-x", tracker], preexec_fn=become_nobody) != 0:
            pytest.skip("the package is in a folder where nobody else may read")
    end = "" if when != "by a child" else """
    send(release, b"x")
    end(starter)
"""
    return HEAD + CHILD_FIRST + text + end


@needs_tracker
@pytest.mark.parametrize("when", WHEN)
def test_from_the_parent_to_a_child(tmp_path, when):
    run(tmp_path, script(when, """
    r, w = os.pipe()
    done, tells = os.pipe()

    def work():
        mine = take(r, 7)
        send(tells, b"x")

    child = worker(work)
    a = give(w, 7)
    assert receive(done) == b"x" and a[0] == 7
    end(child)
    """), when)


@needs_tracker
@pytest.mark.parametrize("when", WHEN)
def test_from_a_child_to_its_parent(tmp_path, when):
    run(tmp_path, script(when, """
    r, w = os.pipe()
    go, lets = os.pipe()

    def work():
        mine = give(w, 8)
        receive(go)
        assert mine[0] == 8 and inherited[0] == 5

    child = worker(work)
    a = take(r, 8)
    send(lets, b"x")
    end(child)
    assert a[-1] == 8
    """), when)


@needs_tracker
@pytest.mark.parametrize("when", WHEN)
def test_from_a_child_to_another(tmp_path, when):
    run(tmp_path, script(when, """
    r, w = os.pipe()
    go, lets = os.pipe()

    def gives():
        mine = give(w, 9)
        receive(go)
        assert mine[0] == 9

    def takes():
        theirs = take(r, 9)
        send(lets, b"x")

    end(worker(gives), worker(takes))
    """), when)


@needs_tracker
def test_what_a_dead_child_held_comes_back(tmp_path):
    run(tmp_path, script("before", """
    import signal, time
    r, w = os.pipe()
    done, tells = os.pipe()

    def work():
        mine = take(r, 7)
        send(tells, b"x")
        receive(r)

    child = worker(work)
    a = give(w, 7)
    receive(done)
    before = snp.stats()["in_use_bytes"]
    del a
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    end = time.monotonic() + 60
    while snp.stats()["in_use_bytes"] > before - SIZE:
        assert time.monotonic() < end, snp.stats()
        snp.trim()
        time.sleep(0.05)
    """), "before")


@needs_tracker
def test_what_is_out_of_reach_without_the_tracker_says_why(tmp_path):
    # The owner's descriptors are closed to another user.
    assert "another user" in run(tmp_path, script("before", """
    import signal, programs
    r, w = os.pipe()
    done, tells = os.pipe()

    def work():
        said = "nothing"
        try:
            take(r, 0)
        except snp.TrackerUnavailable as error:
            said = str(error)
        send(tells, said.encode())

    child = worker(work)
    a = snp.zeros(SIZE, dtype="u1")
    data = bytes(ForkingPickler.dumps(a))
    trackers = programs.trackers_of(programs.memory_files(os.getpid()))
    assert len(trackers) == 1
    os.kill(trackers[0], signal.SIGKILL)
    assert programs.soon(lambda: not programs.is_alive(trackers[0]))
    send(w, data)
    print(receive(done).decode())
    end(child)
    """), "before")
