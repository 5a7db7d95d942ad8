"""The memory of arrays: taken without a copy, recycled, given back from threads, cycles and signals."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

pytest.importorskip("numpy")

import shared_numpy as snp
from shared_numpy import _core
from array_samples import address_of, in_use


@pytest.mark.parametrize("make", [
    "snp.from_array(big)", "snp.array(big)", "snp.array(big[::-1].T, order='C')",
    "snp.array(big, dtype='f4')", "snp.ndarray(big.shape)", "snp.zeros_like(big)",
    "snp.full(big.shape, 1.5)",
])
def test_no_temporary_copy(make):
    # In a process of its own, whose peak of private memory is looked at from inside.
    code = """
        import sys, tracemalloc
        import numpy as np
        import shared_numpy as snp

        big = np.ones((1024, 4096))
        big.flags.writeable = False
        def private_kib():
            with open("/proc/self/status") as lines:
                return [int(line.split()[1]) for line in lines if line.startswith("RssAnon")][0]
        a = snp.array([1])
        tracemalloc.start()
        before = private_kib()
        a = %s
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < 2 << 20, peak
        assert private_kib() - before < 4 << 10
        assert a.size == big.size
    """ % make
    subprocess.check_call([sys.executable, "-c", textwrap.dedent(code)])


def test_memory_is_recycled_with_its_pages():
    addresses = set()
    for _ in range(10):
        a = snp.empty((1000, 1000))
        addresses.add(address_of(a))
        del a
    assert len(addresses) == 1


def test_memory_comes_back_from_cycles_and_threads():
    before = in_use()

    def work():
        for number in range(20):
            holder = [snp.full(1000, number)]
            holder.append(holder)
            assert (holder[0][::2] == number).all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert in_use() == before


def test_threads_make_and_drop():
    def work():
        try:
            for number in range(50):
                a = snp.full(100, number)
                assert (a[::2] == number).all()
        except BaseException as error:
            failures.append(error)

    failures = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_many_arrays_need_no_descriptors():
    before = len(os.listdir("/proc/self/fd"))
    arrays = [snp.array([number]) for number in range(500)]
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    assert [a[0] for a in arrays] == list(range(500))


def test_a_signals_handler_that_raises_ends_the_making_of_an_array():
    class Enough(Exception):
        pass

    def handler(_number, _frame):
        raise Enough

    _core.trim()
    before = _core.stats()
    former = signal.signal(signal.SIGALRM, handler)
    try:
        for maker in (snp.empty, snp.zeros):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            made = []
            with pytest.raises(Enough):
                # Takes ten times as long as that, since nothing is recycled. All of it in C:
                # a handler that is run after it, and not meanwhile, finds something made.
                made.extend(map(maker, [1 << 29], ["u1"]))
            assert not made
            _core.trim()
            after = _core.stats()
            assert after["in_use_bytes"] == before["in_use_bytes"]
            assert after["committed_bytes"] - before["committed_bytes"] < 1 << 22
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert snp.zeros(10).tolist() == [0] * 10
