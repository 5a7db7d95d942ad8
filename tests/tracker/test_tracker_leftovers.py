"""What a program leaves behind that is killed together with its tracker is found in the tracker's book."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from programs import Program, is_alive, names_left, shm_exists, soon

SEGMENTS = """
    import os, sys
    from shared_numpy import resource_tracker
    from shared_numpy.shared_memory import SharedMemory

    made = [SharedMemory(create=True, size=10), SharedMemory("leftover_{}".format(os.getpid()), create=True, size=10)]
    for _ in range(300):  # come and go: nobody writes them down
        passing = SharedMemory(create=True, size=10)
        passing.close()
        passing.unlink()
    print(resource_tracker._resource_tracker._pid, passing.name, *[one.name for one in made], flush=True)
    sys.stdin.readline()
    for one in made:
        one.unlink()
"""

ARRAYS = """
    import os, sys
    import shared_numpy as snp
    from shared_numpy import resource_tracker

    names = ["leftover_{}_{}".format(kind, os.getpid()) for kind in ("goes", "stays")]
    goes, stays = [snp.ndarray(3, name=name, persist="stays" in name) for name in names]
    print(resource_tracker._resource_tracker._pid, *names, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def runtime(monkeypatch):
    """A place for books that no other test uses."""
    with tempfile.TemporaryDirectory(prefix="snp_") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield folder


def books(runtime):
    """The books there, by path."""
    folder = os.path.join(runtime, "shared_numpy-{}".format(os.getuid()))
    found = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        try:
            with open(os.path.join(folder, name), "rb") as book:
                found[book.name] = book.read()
        except OSError:
            pass  # replaced meanwhile
    return found


def is_written(runtime, names):
    """Whether a book has these names."""
    return any(all(name.encode() in book for name in names) for book in books(runtime).values())


def gc(*options):
    """What ``python -m shared_numpy gc`` does, and says. (The directory in /tmp is looked through as well.)"""
    process = subprocess.Popen(
        [sys.executable, "-m", "shared_numpy", "gc"] + list(options), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        universal_newlines=True)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    return out.splitlines()


def kill(*numbers):
    """All at once: nobody may see another one die first."""
    for number in numbers:
        os.kill(number, signal.SIGSTOP)
    for number in numbers:
        os.kill(number, signal.SIGKILL)
    assert soon(lambda: not any(is_alive(number) for number in numbers))


def killed_with_its_tracker(tmp_path, runtime, script):
    """The names that it leaves."""
    with Program(tmp_path, script) as program:
        tracker, *names = program.line().split()
        # The first of SEGMENTS has gone again.
        assert soon(lambda: is_written(runtime, names[-2:] if len(names) == 3 else names[:1]))
        kill(program.pid, int(tracker))
    return names


def test_segments(tmp_path, runtime):
    passing, *names = killed_with_its_tracker(tmp_path, runtime, SEGMENTS)
    assert names_left(names) == names
    assert is_written(runtime, names) and not is_written(runtime, [passing])
    lines = gc()
    assert {"removed: " + name for name in names} <= set(lines)
    assert names_left(names) == [] and os.listdir(runtime) == []
    assert not {"removed: " + name for name in names} & set(gc())


def test_arrays_unless_they_are_to_stay(tmp_path, runtime):
    pytest.importorskip("numpy")
    goes, stays = killed_with_its_tracker(tmp_path, runtime, ARRAYS)
    assert "removed: " + goes in gc()
    assert names_left([goes, stays]) == [stays]
    os.unlink("/dev/shm/" + stays)


def test_the_next_tracker_removes_them_without_a_word(tmp_path, runtime):
    _, *names = killed_with_its_tracker(tmp_path, runtime, SEGMENTS)
    with Program(tmp_path, SEGMENTS) as program:
        program.line()
        assert soon(lambda: names_left(names) == [])
        program.tell()
        program.end()


def test_whoever_lives_keeps_his_names(tmp_path, runtime):
    with Program(tmp_path, SEGMENTS) as program:
        tracker, _, *names = program.line().split()
        assert soon(lambda: is_written(runtime, names))
        assert not any(name in line for line in gc() for name in names)  # the tracker has the book
        kill(int(tracker))
        assert not any(name in line for line in gc() for name in names)  # the program has the marker
        assert names_left(names) == names and is_written(runtime, names)
        kill(program.pid)
    assert {"removed: " + name for name in names} <= set(gc())
    assert names_left(names) == []


def test_a_program_that_ends_leaves_no_book(tmp_path, runtime):
    with Program(tmp_path, SEGMENTS) as program:
        tracker, _, *names = program.line().split()
        assert soon(lambda: is_written(runtime, names))
        program.tell()
        program.end()
        assert soon(lambda: not is_alive(int(tracker)))
        assert names_left(names) == [] and os.listdir(runtime) == []


def test_another_file_under_the_name_is_left_alone(tmp_path, runtime):
    _, one, other = killed_with_its_tracker(tmp_path, runtime, SEGMENTS)
    os.unlink("/dev/shm/" + one)
    with open("/dev/shm/" + one, "w") as replaced:
        replaced.write("mine")
    try:
        lines = gc()
        assert "removed: " + other in lines and "removed: " + one not in lines
        assert shm_exists(one) and os.listdir(runtime) == []
    finally:
        os.unlink("/dev/shm/" + one)


def test_what_is_no_book_does_no_harm(tmp_path, runtime):
    names = killed_with_its_tracker(tmp_path, runtime, SEGMENTS)[1:]
    (path, good), = books(runtime).items()
    for number, bad in enumerate((b"", b"SNPBOOK1", good[:-1], good + b"\0", good[:40] + b"\2" + good[41:], os.urandom(300))):
        with open("{}.{}".format(path, number), "wb") as book:
            book.write(bad)
    with open(os.path.join(os.path.dirname(path), "other"), "wb") as other:
        other.write(good)
    os.mkfifo(path + ".fifo")
    assert {"removed: " + name for name in names} <= set(gc())
    assert sorted(os.path.basename(left) for left in os.listdir(os.path.dirname(path))) == [
        os.path.basename(path) + ".fifo", "other"]


def test_a_book_of_another_boot_is_thrown_away_and_of_other_processes_left(tmp_path, runtime):
    names = killed_with_its_tracker(tmp_path, runtime, SEGMENTS)[1:]
    (path, good), = books(runtime).items()

    def checksum(data):
        value = 0xcbf29ce484222325
        for byte in data:
            value = (value ^ byte) * 0x100000001b3 % 2 ** 64
        return value.to_bytes(8, "little")

    for at, is_left in ((8, False), (24, True)):  # the boot's id; that of the pid namespace
        changed = bytearray(good[:-8])
        changed[at] ^= 1
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with open(path, "wb") as book:
            book.write(bytes(changed) + checksum(changed))
        assert not any(name in line for line in gc() for name in names)
        assert names_left(names) == names and os.path.exists(path) == is_left
    with open(path, "wb") as book:
        book.write(good[:-8] + checksum(good[:-8]))
    gc()
    assert names_left(names) == []


def test_nothing_to_do(runtime):
    assert all(line == "nothing was left behind" or line.startswith("removed: ") for line in gc())
