"""Without a members tracker arrays still travel as far as the system allows, and what is out of reach says why."""

import pytest

pytest.importorskip("numpy")

from programs import DISABLED, Program, nothing_is_left, run, trackers_of

ALONE = dict(SHARED_NUMPY_DISABLE=",".join(DISABLED + ["tracker"]))


def test_without_a_tracker_trees_of_forks_work(tmp_path):
    run(tmp_path, """
        import multiprocessing, os
        import shared_numpy as snp

        def work(number):
            mine = snp.full(10, float(number))
            queue.put(mine)
            a[number] += 1
            if number < 16:
                children = [context.Process(target=work, args=(2 * number + each,)) for each in range(2)]
                for child in children:
                    child.start()
                for child in children:
                    child.join()
                    assert child.exitcode == 0
            received.wait(60)  # nobody else keeps what we sent

        context = multiprocessing.get_context("fork")
        a, queue, received = snp.zeros(32), context.Queue(), context.Event()
        root = context.Process(target=work, args=(1,))
        root.start()
        arrays = [queue.get(timeout=60) for _ in range(31)]
        received.set()
        root.join()
        assert root.exitcode == 0
        assert sorted(each[0] for each in arrays) == list(range(1, 32))
        assert a.tolist() == [0] + [1] * 31
    """, **ALONE)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_without_a_tracker_the_owner_is_reached_in_proc(tmp_path, method):
    with Program(tmp_path, """
        import multiprocessing, sys
        import numpy as np
        import shared_numpy as snp

        def work(a, queue, back):
            a[0] = 9
            b = queue.get(timeout=60)
            b[0] = 8
            back.put(snp.full(1 << 18, 7.0))
            queue.get(timeout=60)

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            queue, back = context.Queue(), context.Queue()
            a = snp.array(np.arange(5))
            child = context.Process(target=work, args=(a, queue, back))
            child.start()
            b = snp.full(1 << 20, 1.0)
            queue.put(b)
            made = back.get(timeout=60)
            assert made.sum() == 7 << 18 and a[0] == 9 and b[0] == 8
            queue.put(None)
            child.join()
            assert child.exitcode == 0
            assert made.sum() == 7 << 18
            assert snp.stats()["in_flight"] == 0
            print("ready", flush=True)
            sys.stdin.readline()
    """, method, **ALONE) as program:
        program.line()
        files = program.files()
        assert files and trackers_of(files) == []
        program.tell()
        program.end()
        nothing_is_left(program, files, [])


def test_without_a_tracker_a_shortage_of_descriptors_costs_no_item(tmp_path):
    run(tmp_path, """
        import errno, os, resource
        import shared_numpy as snp

        queue, ready = snp.Queue(), snp.Event()
        first = snp.empty(10)
        child = os.fork()
        if child == 0:
            assert ready.wait(60)
            kept = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            try:
                while True:
                    kept.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            # Its memory was made after the fork: this process has to open it.
            try:
                queue.get(timeout=60)
            except OSError as error:
                assert error.errno == errno.EMFILE, error
            else:
                raise AssertionError("no shortage")
            while kept:
                os.close(kept.pop())
            a = queue.get(timeout=60)
            assert a.shape == (80 << 20,) and a[:5].tolist() == [7] * 5
            os._exit(0)
        a = snp.empty(80 << 20, "u1")
        a[:5] = 7
        queue.put(a)
        ready.set()
        assert os.waitpid(child, 0)[1] == 0
    """, **ALONE)


def test_without_a_tracker_an_owner_out_of_reach_is_an_error_that_says_why(tmp_path):
    out = run(tmp_path, """
        import multiprocessing, os
        import shared_numpy as snp

        def work(connection):
            connection.recv()
            for _ in range(2):
                try:
                    a = connection.recv()
                except snp.TrackerUnavailable as error:
                    connection.send(str(error))
                else:
                    connection.send(a.sum())

        def descriptors():
            return {int(fd) for fd in os.listdir("/proc/self/fd") if "memfd:shared_numpy" in link(fd)
                    or "/dev/shm/" in link(fd)}

        def link(fd):
            try:
                return os.readlink("/proc/self/fd/" + fd)
            except OSError:
                return ""

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            child = context.Process(target=work, args=(theirs,))
            child.start()
            ours.send(snp.ones(10))
            near = snp.ones(20)
            before = descriptors()
            a = snp.empty(200 << 20, dtype="u1")  # large enough for a segment of its own
            assert descriptors() > before
            for fd in descriptors() - before:
                os.close(fd)
            ours.send(a)
            print(ours.recv())
            ours.send(near)
            print(ours.recv())
            child.join()
            assert child.exitcode == 0
    """, **ALONE)
    error, good = out.splitlines()
    assert "SHARED_NUMPY_DISABLE" in error and "tracker" in error, error
    assert good == "20.0"
