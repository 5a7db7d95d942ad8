"""Memory that others dropped while its owner sleeps goes back to the system."""

import pytest

pytest.importorskip("numpy")

from programs import mem_available, needs_tracker, run

MIB = 1 << 20
# Of the arrays of the test, and as much again for what else there is.
NEEDED_BYTES = 3 << 30

SLEEPER = """
    import multiprocessing, os, sys
    import shared_numpy as snp
    from programs import committed_by, soon

    MIB, COUNT, KEPT = 1 << 20, 36, 2
    # What is held, the limit, and tables.
    LOW = (KEPT * 32 + 256 + 16) << 20

    def consume(arrays, ready, go, answers):
        held = [arrays.get() for _ in range(COUNT)]
        assert all((a == number).all() for number, a in enumerate(held))
        ready.send("holds all")
        go.recv()
        del held[KEPT:]
        before = committed_by(os.getppid())
        is_low = soon(lambda: committed_by(os.getppid()) <= LOW)
        answers.send((is_low, before, committed_by(os.getppid())))
        go.recv()
        assert all((a == number).all() for number, a in enumerate(held))
        held.append(arrays.get())
        assert (held[-1] == 77).all()
        answers.send("right")

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        arrays = context.Queue()
        (ready, its_ready), (its_go, go), (answers, its_answers) = (context.Pipe(False) for _ in range(3))
        child = context.Process(target=consume, args=(arrays, its_ready, its_go, its_answers))
        child.start()
        for number in range(COUNT):
            arrays.put(snp.full(32 * MIB, number, dtype="u1"))
        assert ready.recv() == "holds all"
        go.send("drop")
        # From here on this process sleeps: it looks at nothing and allocates nothing.
        is_low, before, after = answers.recv()
        assert is_low, (before, after)
        # It goes on, and what it makes lies in nobody's memory.
        more = [snp.full(32 * MIB, 100 + number, dtype="u1") for number in range(COUNT)]
        assert all((a == 100 + number).all() for number, a in enumerate(more))
        arrays.put(snp.full(32 * MIB, 77, dtype="u1"))
        go.send("look")
        assert answers.recv() == "right"
        assert all((a == 100 + number).all() for number, a in enumerate(more))
        stats = snp.stats()
        assert stats["in_use_bytes"] >= COUNT * 32 * MIB
        del more
        child.join()
        snp.trim()
        # A thread of the queue may have the last array still.
        assert snp.stats()["committed_bytes"] <= 40 * MIB, snp.stats()
        print(child.exitcode, before // MIB, after // MIB)
"""


@needs_tracker
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_sleeping_owner_keeps_no_more_than_one_that_is_awake(tmp_path, method):
    if mem_available() < NEEDED_BYTES:
        pytest.skip("needs {} MiB of memory".format(NEEDED_BYTES // MIB))
    out = run(tmp_path, SLEEPER, method)
    assert out.split()[0] == "0"
