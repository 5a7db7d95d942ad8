"""The numbers 0, 1 and 2 are the program's, closed or not: what is written there must not end up in an array."""

import pytest

pytest.importorskip("numpy")

from programs import run  # noqa: E402


def test_memory_does_not_become_the_standard_output_of_a_daemon(tmp_path):
    run(tmp_path, """
        import os, pickle
        import shared_numpy as snp
        from multiprocessing.reduction import ForkingPickler

        def are_closed():
            open_ones = []
            for number in range(3):
                try:
                    os.fstat(number)
                    open_ones.append(number)
                except OSError:
                    pass
            assert open_ones == [], open_ones

        kept = [os.dup(number) for number in range(3)]
        os.closerange(0, 3)
        r, w = os.pipe(), os.pipe()  # these take the numbers
        r, w = [[os.dup(number) for number in pipe] for pipe in (r, w)]
        os.closerange(0, 3)
        failed = True
        pid = os.fork()
        if pid == 0:
            try:
                # Of a pool that is not inherited: it comes from the tracker, or out of /proc.
                a = pickle.loads(os.read(r[0], 4096))
                assert a.tolist() == [7, 7, 7]
                are_closed()
                failed = False
            finally:
                os._exit(failed)
        a = snp.full(3, 7)
        are_closed()
        data = bytes(ForkingPickler.dumps(a))
        are_closed()
        os.write(r[1], data)
        status = os.waitpid(pid, 0)[1]
        for number in range(3):
            os.dup2(kept[number], number)
        assert status == 0
    """)
