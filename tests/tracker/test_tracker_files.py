"""Without abstract socket names both trackers are found at files, in a directory that is only ours."""

import os
import stat
import tempfile

import pytest

from programs import DISABLED, Program, needs_tracker, run, soon

WITHOUT = ",".join(DISABLED + ["abstract"])


@pytest.fixture
def runtime():
    """A short path: that of a socket has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="snp_") as folder:
        yield folder


def sockets(runtime):
    """What is in the directory of ours."""
    try:
        return os.listdir(os.path.join(runtime, "shared_numpy-{}".format(os.getuid())))
    except OSError:
        return None


FAMILIES = """
    import multiprocessing, os, sys
    import shared_numpy as snp

    def work(queue, back):
        a = queue.get(timeout=60)
        a[0] = 9
        back.put(snp.full(3, 7))
        queue.get(timeout=60)

    if __name__ == "__main__":
        context = multiprocessing.get_context("spawn")
        queue, back = context.Queue(), context.Queue()
        child = context.Process(target=work, args=(queue, back))
        child.start()
        a = snp.zeros(3)
        queue.put(a)
        b = back.get(timeout=60)
        assert a[0] == 9 and b.tolist() == [7, 7, 7]
        print("up", flush=True)
        sys.stdin.readline()
        queue.put(None)
        child.join()
        assert child.exitcode == 0
"""


@needs_tracker
def test_a_family_finds_its_tracker_at_a_file(tmp_path, runtime):
    pytest.importorskip("numpy")
    with Program(tmp_path, FAMILIES, SHARED_NUMPY_DISABLE=WITHOUT, XDG_RUNTIME_DIR=runtime) as program:
        assert program.line() == "up"
        assert any(each.startswith("shared_numpy.family.") for each in sockets(runtime))
        folder = os.stat(os.path.join(runtime, "shared_numpy-{}".format(os.getuid())))
        assert stat.S_IMODE(folder.st_mode) == 0o700
        program.tell()
        program.end()
    assert soon(lambda: sockets(runtime) is None), sockets(runtime)


@needs_tracker
def test_a_directory_that_others_can_enter_is_passed_over(tmp_path, runtime):
    pytest.importorskip("numpy")
    os.mkdir(os.path.join(runtime, "shared_numpy-{}".format(os.getuid())), 0o755)
    with Program(tmp_path, FAMILIES, SHARED_NUMPY_DISABLE=WITHOUT, XDG_RUNTIME_DIR=runtime) as program:
        assert program.line() == "up"
        assert sockets(runtime) == []
        program.tell()
        program.end()


def test_a_spawned_child_finds_the_tracker_of_names_at_a_file(tmp_path, runtime):
    names = run(tmp_path, """
        import multiprocessing, os, sys
        import programs
        import shared_numpy as snp

        def work(back, go):
            memory = snp.SharedMemory(create=True, size=10)
            back.put(memory.name)
            go.wait(60)
            os._exit(0)

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            back, go = context.Queue(), context.Event()
            mine = snp.SharedMemory(create=True, size=10)
            child = context.Process(target=work, args=(back, go))
            child.start()
            name = back.get(timeout=60)
            folder = os.path.join(os.environ["XDG_RUNTIME_DIR"], "shared_numpy-{}".format(os.getuid()))
            found = [each for each in os.listdir(folder) if ".family." not in each]
            assert len(found) == 1, found
            go.set()
            child.join()
            # The child's memory is its group's, which goes on: one tracker has both.
            assert programs.shm_exists(name)
            snp.SharedMemory(name).unlink()
            mine.unlink()
    """, SHARED_NUMPY_DISABLE=WITHOUT, XDG_RUNTIME_DIR=runtime)
    assert names == ""
    assert soon(lambda: sockets(runtime) is None), sockets(runtime)
