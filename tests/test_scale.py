"""Many arrays, many processes, little address space, a small /dev/shm."""

import subprocess

import pytest

pytest.importorskip("numpy")

from programs import DISABLED, mem_available, run


def test_100000_arrays_with_64_descriptors(tmp_path):
    out = run(tmp_path, """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        import shared_numpy as snp
        arrays = [snp.full(3, number, dtype="i8") for number in range(100000)]
        assert all(a[0] == a[2] == number for number, a in enumerate(arrays))
        stats = snp.stats()
        assert stats["held_blocks"] == 100000, stats
        # Every second one goes, and others take their places.
        del arrays[::2]
        more = [snp.full(3, -1) for _ in range(50000)]
        assert all(a.tolist() == [2 * number + 1] * 3 for number, a in enumerate(arrays))
        assert snp.stats()["committed_bytes"] == stats["committed_bytes"]
        del arrays, more
        snp.trim()
        print(snp.stats()["in_use_bytes"])
    """)
    assert out == "0\n"


def test_100000_arrays_in_a_forked_child(tmp_path):
    run(tmp_path, """
        import os, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        import shared_numpy as snp
        arrays = [snp.full(1, number, dtype="i8") for number in range(100000)]
        pid = os.fork()
        if pid == 0:
            try:
                assert all(a[0] == number for number, a in enumerate(arrays))
                arrays[7][0] = -7
                mine = snp.full(1000, 1)
                os._exit(0 if mine.sum() == 1000 else 2)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert arrays[7][0] == -7 and arrays[99999][0] == 99999
    """)


def test_256_processes_hold_one_array(tmp_path):
    out = run(tmp_path, """
        import os
        import numpy as np
        import shared_numpy as snp
        from programs import soon
        a = snp.array(np.arange(100000))
        ready_in, ready_out = os.pipe()
        go_in, go_out = os.pipe()
        children = []
        for number in range(256):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    os.close(go_out)
                    os.write(ready_out, b"." if a.sum() == 4999950000 else b"!")
                    os.read(go_in, 1)  # until its other end is closed
                    status = 0 if a.sum() == 4999950000 else 2
                finally:
                    os._exit(status)
            children.append(pid)
        os.close(ready_out)
        answers = b""
        while len(answers) < 256:
            answers += os.read(ready_in, 256)
        assert answers == b"." * 256
        stats = snp.stats()
        assert {each["pid"] for each in stats["by_holder"]} == set(children) | {os.getpid()}
        assert all(each["blocks"] == 1 for each in stats["by_holder"])
        del a
        others = [snp.full(100000, -1) for _ in range(20)]
        assert len(snp.stats()["by_holder"]) == 257
        os.close(go_out)
        assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
        del others
        assert soon(lambda: snp.stats()["in_use_bytes"] == 0), snp.stats()
        snp.trim()
        print(snp.stats()["committed_bytes"])
    """)
    # Blocks below a page keep theirs; there is none.
    assert out == "0\n"


def test_4_gb_of_address_space(tmp_path):
    if mem_available() < 3 << 30:
        pytest.skip("less than 3 GiB of memory are available")
    run(tmp_path, """
        import multiprocessing, resource, sys
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        import shared_numpy as snp

        def work(queue, back):
            a = queue.get()
            a += 1
            made = snp.full(1 << 20, 5, dtype="u1")
            back.put((float(a[0]), made))

        if __name__ == "__main__":
            for size in (100, 1 << 10, 1 << 16, 1 << 20, 36 << 20, 300 << 20, 1 << 30):
                a = snp.empty(size, dtype="u1")
                a[::4096] = 1
                b = snp.ones(100)
                assert a[::4096].sum() == -(-size // 4096) and b.sum() == 100
            del a, b
            many = [snp.full(36 << 17, number) for number in range(20)]
            assert all(a[0] == a[-1] == number for number, a in enumerate(many))
            del many
            for method in ("fork", "spawn"):
                context = multiprocessing.get_context(method)
                queue, back = context.Queue(), context.Queue()
                child = context.Process(target=work, args=(queue, back))
                child.start()
                a = snp.full(1 << 20, 1.0)
                queue.put(a)
                seen, made = back.get(timeout=100)
                assert seen == 2.0 == a[0] and made.sum() == 5 << 20
                child.join()
                assert child.exitcode == 0
            for size in (5 << 30, 1 << 40):
                try:
                    snp.empty(size, dtype="u1")
                except (MemoryError, OSError) as error:
                    assert len(str(error)) > 20, error
                else:
                    sys.exit("it has more than 4 GB")
            assert snp.full(100, 2.0).sum() == 200
    """)


# -- a /dev/shm of 16 MB ----------------------------------------------------------------

SMALL = 'mount -t tmpfs -o size=16m,mode=1777 tmpfs /dev/shm && exec "$@"'


def in_small_shm(tmp_path, script, *arguments, **environment):
    """Runs a script where /dev/shm has 16 MB, and checks that nothing stays there."""
    possible = subprocess.call(["unshare", "--mount", "sh", "-c", SMALL, "sh", "true"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if possible:
        pytest.skip("mounting a /dev/shm of one's own takes rights that are missing here")
    return run(tmp_path, """
        import subprocess, sys
        sys.exit(subprocess.call(["unshare", "--mount", "sh", "-c", sys.argv[1], "sh", sys.executable]
                                 + sys.argv[2:]))
    """, SMALL, _written(tmp_path, script), *arguments, **environment)


def _written(tmp_path, script):
    path = tmp_path / "inside.py"
    lines = script.splitlines()
    path.write_text("\n".join(line[8:] for line in lines) + "\n"
                    "assert os.listdir('/dev/shm') == [], os.listdir('/dev/shm')\n")
    return str(path)


@pytest.mark.skipif("memfd" in DISABLED, reason="SHARED_NUMPY_DISABLE=memfd: it is about memfd")
def test_a_gigabyte_with_a_small_dev_shm(tmp_path):
    if mem_available() < 3 << 30:
        pytest.skip("less than 3 GiB of memory are available")
    in_small_shm(tmp_path, """
        import os
        import shared_numpy as snp
        a = snp.empty(1 << 30, dtype="u1")
        a[::4096] = 7
        pid = os.fork()
        if pid == 0:
            os._exit(0 if (a[::4096] == 7).all() else 1)
        assert os.waitpid(pid, 0)[1] == 0
    """)


def test_a_full_dev_shm_without_memfd(tmp_path):
    """Errors with figures, no SIGBUS, and what is small goes on: alone, in forks, between processes."""
    out = in_small_shm(tmp_path, """
        import errno, os, pickle, subprocess, sys
        from multiprocessing.reduction import ForkingPickler
        import shared_numpy as snp

        def full(size):
            try:
                return snp.full(size, 1, dtype="u1")
            except OSError as error:
                assert error.errno == errno.ENOSPC and "bytes" in str(error), error
                print("refused", size >> 10, error)

        kept = snp.full(1000, 3.0)
        assert full(1 << 30) is None and full(20 << 20) is None
        for size in (4 << 20, 1 << 20, 1 << 16, 4096, 100):
            arrays = []
            while True:
                a = full(size)
                if a is None:
                    break
                arrays.append(a)
                assert len(arrays) < 300000
            assert len(arrays) * size > 1 << 20, (len(arrays), size)
            data = bytes(ForkingPickler.dumps(kept))
            assert (pickle.loads(data) == 3).all()
            assert (kept == 3).all() and all((each == 1).all() for each in arrays)
            del arrays
            again = full(size)
            assert again.sum() == size and (kept == 3).all()
            del again
        # Nothing is left for others either: a forked child, and one that is started anew.
        snp.trim()
        arrays = [full(1 << 16) for _ in range(256)]
        code = "import shared_numpy as snp\\ntry: snp.ones(5)\\nexcept OSError as error: print(error.errno)"
        assert subprocess.check_output([sys.executable, "-c", code]) == b"28\\n"
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                good = (kept == 3).all() and all(each is None or (each == 1).all() for each in arrays)
                kept[1] = 4
                status = 0 if good and full(1 << 16) is None else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert kept[1] == 4 and all(each is None or (each == 1).all() for each in arrays)
    """, SHARED_NUMPY_DISABLE=",".join(DISABLED + ["memfd"]))
    lines = out.splitlines()
    assert lines[0].startswith("refused 1048576")
    # What was asked and what is free.
    assert str(1 << 30) in lines[0] or "1.0 GiB" in lines[0], lines[0]


# -- limits -----------------------------------------------------------------------------


def test_a_limit_of_ones_own(tmp_path):
    out = run(tmp_path, """
        import shared_numpy as snp
        arrays = []
        try:
            while len(arrays) < 1000:
                arrays.append(snp.full(1 << 20, 1, dtype="u1"))
        except MemoryError as error:
            print(len(arrays), error)
        assert all((a == 1).all() for a in arrays)
        del arrays[:10]
        again = [snp.full(1 << 20, 2, dtype="u1") for _ in range(10)]
        try:
            snp.empty(1 << 30)
        except MemoryError as error:
            print(error)
    """, SHARED_NUMPY_LIMIT="32M")
    first, second = out.splitlines()
    assert 25 <= int(first.split()[0]) <= 32
    for line in (first, second):
        assert "SHARED_NUMPY_LIMIT" in line and "32" in line, line


def test_a_limit_that_is_no_size(tmp_path):
    out = run(tmp_path, """
        import shared_numpy as snp
        try:
            snp.empty(10)
        except ValueError as error:
            print(error)
    """, SHARED_NUMPY_LIMIT="much")
    assert "SHARED_NUMPY_LIMIT" in out and "much" in out


def test_100000_arrays_in_a_queue(tmp_path):
    run(tmp_path, """
        import shared_numpy as snp
        queue = snp.Queue()
        for number in range(100000):
            queue.put(snp.full(3, number, dtype="i8"))
        assert snp.stats()["in_flight"] >= 100000
        again = snp.full(3, -1)
        for _ in range(20000):
            queue.put(again)
        assert queue.qsize() == 120000
        for number in range(100000):
            assert queue.get().tolist() == [number] * 3
        for _ in range(20000):
            assert queue.get()[0] == -1
        del again, queue
        snp.trim()
        assert snp.stats()["in_use_bytes"] == 0, snp.stats()
    """)


def test_files_of_20_mb_at_most(tmp_path):
    """As ``ulimit -f``, which counts memory without a name too."""
    run(tmp_path, """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))
        import shared_numpy as snp
        arrays = [snp.full(1 << 20, number, dtype="u1") for number in range(50)]
        small = [snp.full(10, number) for number in range(10000)]
        assert all((a == number).all() for number, a in enumerate(arrays))
        assert all(a[9] == number for number, a in enumerate(small))
        queue, lock = snp.Queue(), snp.Lock()
        queue.put(arrays[7])
        with lock:
            assert queue.get()[0] == 7
        try:
            snp.empty(30 << 20, dtype="u1")
        except OSError as error:
            assert "too large" in str(error), error
        else:
            raise AssertionError("more than a file may be")
    """)
