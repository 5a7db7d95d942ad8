"""Arrays between processes, under each start method: arguments, pipes, pools and executors."""

import concurrent.futures
import gc
import multiprocessing
import sys

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from array_samples import exists, name_of  # noqa: E402
from programs import needs_tracker  # noqa: E402


def double_in_place(a):
    assert type(a) is snp.SharedNDArray
    a *= 2


def make_and_return(number):
    return snp.full((2, 3), number)


def sum_of(a):
    return type(a).__name__, float(a.sum())


def send_and_exit(connection):
    connection.send({"made": snp.array([[1, 2], [3, 4]], order="F")})
    connection.close()


def test_process_arguments(context):
    a = snp.array(np.arange(6.0).reshape(2, 3))
    process = context.Process(target=double_in_place, args=(a.T[1:],))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert a.tolist() == [[0, 2, 4], [3, 8, 10]]
    a.unlink()


@needs_tracker
def test_pipe(context):
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=send_and_exit, args=(send,))
    process.start()
    process.join(60)
    a = receive.recv()["made"]
    assert type(a) is snp.SharedNDArray and a.tolist() == [[1, 2], [3, 4]] and a.flags.f_contiguous
    a.unlink()


def test_pool(context):
    a = snp.ones((4, 5))
    with context.Pool(2) as pool:
        assert pool.map(sum_of, [a, a[1:], a[:, 0]]) == [
            ("SharedNDArray", 20.0), ("SharedNDArray", 15.0), ("SharedNDArray", 4.0)]
        results = pool.map(make_and_return, range(3))
        pool.close()
        pool.join()
    for number, result in enumerate(results):
        assert type(result) is snp.SharedNDArray and (result == number).all()
        result.unlink()
    a.unlink()


@pytest.mark.skipif(sys.version_info < (3, 7), reason="executors take a context since 3.7")
def test_executor(context):
    a = snp.ones(10)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        executor.submit(double_in_place, a).result(60)
        made = executor.submit(make_and_return, 5).result(60)
    assert (a == 2).all() and (made == 5).all() and type(made) is snp.SharedNDArray
    a.unlink()
    made.unlink()


def inherited(a, connection):
    connection.recv()  # the parent has dropped it
    connection.send(a[1:])
    connection.close()


def test_a_fork_child_may_send_what_its_parent_dropped():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    a = snp.array([1, 2, 3])
    name = name_of(a)
    process = context.Process(target=inherited, args=(a, theirs), daemon=True)
    process.start()
    del a
    process.__dict__.pop("_args", None)  # older versions keep the arguments
    gc.collect()
    assert exists(name), "the child has it"
    ours.send("dropped")
    assert ours.poll(60)
    b = ours.recv()
    process.join(60)
    assert type(b) is snp.SharedNDArray and b.tolist() == [2, 3]
