"""A process that calls `exec` and comes back: what it was is dead, whatever it is now."""

import pytest

pytest.importorskip("numpy")

from programs import DISABLED, needs_tracker, run

# Nobody looks at the child but who waits for it; so the new program is there before anybody has looked.
ALONE = dict(SHARED_NUMPY_DISABLE=",".join(DISABLED + ["tracker"]))
SCRIPT = """
    import ast, os, pickle, sys
    import shared_numpy as snp
    from multiprocessing.reduction import ForkingPickler

    def comes_back(number, data):
        a = pickle.loads(ast.literal_eval(data))
        assert a.tolist() == [7, 7, 7]
        os.write(int(number), b"x")
        sys.stdin.read()
        sys.exit()

    if len(sys.argv) > 1:
        comes_back(*sys.argv[1:])
    large, small, lock = snp.zeros(4 << 20, dtype="u1"), snp.full(3, 7), snp.Lock()
    data = repr(bytes(ForkingPickler.dumps(small)))
    told, tells = os.pipe()
    ends, keeps = os.pipe()
    os.set_inheritable(tells, True)
    pid = os.fork()
    if pid == 0:
        os.close(keeps)
        os.dup2(ends, 0)
        lock.acquire()
        os.execv(sys.executable, [sys.executable, "-B", __file__, str(tells), data])
    assert os.read(told, 1) == b"x"
    before = snp.stats()["in_use_bytes"]
    del large
    snp.trim()
    assert snp.stats()["in_use_bytes"] <= before - (4 << 20)
    assert lock.acquire(timeout=60)
    os.close(keeps)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_what_the_parent_held_at_the_fork_is_held_no_more_and_a_lock_is_taken_over(tmp_path):
    run(tmp_path, SCRIPT, **ALONE)


@needs_tracker
def test_the_same_with_a_tracker(tmp_path):
    run(tmp_path, SCRIPT)
