"""Handles that nobody receives: what they keep expires, in our pool and in those whose owner is gone, and not before its time."""

import pytest

pytest.importorskip("numpy")

from programs import needs_tracker, run

SEND_AND_DIE = """
    import os, sys, time
    from multiprocessing.reduction import ForkingPickler
    import shared_numpy as snp
    from programs import soon

    def sent_by_a_child(a):
        pid = os.fork()
        if pid == 0:
            ForkingPickler.dumps(a)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

    def address(a):
        return a.__array_interface__["data"][0]

    a = snp.ones(1 << 13)
    place = address(a)
    sent_by_a_child(a)
    del a
"""


def test_what_the_dead_sent_to_nobody_expires_in_our_pool(tmp_path):
    run(tmp_path, SEND_AND_DIE + """
    assert soon(lambda: snp.stats()["in_flight"] == 0)
    assert snp.stats()["in_use_bytes"] == 0
    """, SHARED_NUMPY_INFLIGHT_S="1")


def test_what_the_dead_sent_to_nobody_is_used_before_the_pool_grows(tmp_path):
    run(tmp_path, SEND_AND_DIE + """
    others = []

    def is_used_again():
        others.append(snp.ones(1 << 13))
        return address(others[-1]) == place

    assert soon(is_used_again)
    """, SHARED_NUMPY_INFLIGHT_S="1")


def test_trim_finds_what_expired(tmp_path):
    run(tmp_path, SEND_AND_DIE + """
    assert soon(lambda: snp.trim() >= 1 << 16)
    """, SHARED_NUMPY_INFLIGHT_S="1")


def test_what_was_sent_stays_for_ten_minutes(tmp_path):
    out = run(tmp_path, SEND_AND_DIE + """
    time.sleep(1.5)
    snp.trim()
    stats = snp.stats()
    print(stats["in_flight"], stats["in_use_bytes"] >= 1 << 16)
    """)
    assert out == "1 True\n"


@needs_tracker
def test_what_was_sent_to_nobody_expires_in_orphaned_pools(tmp_path):
    run(tmp_path, """
        import multiprocessing, os, pickle
        from multiprocessing.reduction import ForkingPickler
        import shared_numpy as snp
        from programs import memory_files, soon, users_of

        def send_and_die(connection):
            a = snp.ones(1 << 20)
            connection.send((bytes(ForkingPickler.dumps(a)), memory_files(os.getpid())))

        if __name__ == "__main__":
            mine = snp.ones(10)
            bytes(ForkingPickler.dumps(mine))
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            child = context.Process(target=send_and_die, args=(theirs,))
            child.start()
            data, files = ours.recv()
            child.join()
            files -= memory_files(os.getpid())
            assert len(files) == 1
            # The tracker has it, until it expires.
            assert soon(lambda: not users_of(files))
            try:
                pickle.loads(data)
            except snp.StaleHandle:
                pass
            else:
                raise AssertionError("it is still there")
    """, SHARED_NUMPY_INFLIGHT_S="1")
