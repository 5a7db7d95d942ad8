"""Ways on which arrays travel that are not multiprocessing's own, and names in their place."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from shared_numpy.shared_memory import SharedMemory  # noqa: E402
from array_samples import in_use, memory_of  # noqa: E402
from programs import DISABLED, needs_tracker, run  # noqa: E402

# -- multiprocessing's queues -------------------------------------------------------------


def work(queue, back):
    a, frame = queue.get(timeout=60), queue.get(timeout=60)["frame"]
    a += 1
    frame[:, 0] = 5
    back.put((type(a).__name__, type(frame).__name__, a[1:], snp.full(4, 9.0)))


@needs_tracker
def test_plain_queues(context):
    queue, back = context.Queue(), context.Queue()
    process = context.Process(target=work, args=(queue, back))
    process.start()
    a, frame = snp.zeros(1000), snp.zeros((600, 800), dtype="u1")
    queue.put(a)
    queue.put({"frame": frame.T})
    kind, other, view, made = back.get(timeout=60)
    process.join(60)
    assert process.exitcode == 0 and kind == other == "SharedNDArray"
    assert a.sum() == 1000 and memory_of(view) == memory_of(a) and made.tolist() == [9.0] * 4
    assert frame[0].sum() == 4000 == frame.sum()
    for each in (queue, back):
        each.close()
        each.join_thread()


def answer(connection):
    a = connection.recv()
    a[...] = 3
    connection.send([a, a[::2]])
    connection.close()


def test_pipe_there_and_back(context):
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs,))
    process.start()
    a = snp.zeros((10, 20))
    ours.send(a)
    same, view = ours.recv()
    process.join(60)
    assert process.exitcode == 0
    assert memory_of(same) == memory_of(a) == memory_of(view) and (a == 3).all() and view.shape == (5, 20)


# -- loky and joblib ----------------------------------------------------------------------

JOBLIB = """
    import pickle, sys
    import numpy as np
    import shared_numpy as snp

    class Derived(snp.SharedNDArray):
        pass

    def work(a, number):
        kind = type(a).__name__
        a[..., 0] = number
        made = snp.full(3, float(number))
        return kind, a[..., :1], made, {"all": [a]}

    if __name__ == "__main__":
        import joblib  # after ours: its pickler is not there yet when we are imported
        small, large = snp.zeros(10), snp.zeros((300, 1000))
        arrays = [small, large, snp.zeros((300, 1000))[5:50], snp.zeros((300, 1000)).T[20:30], snp.ones(5).view(Derived)]
        parallel = joblib.Parallel(n_jobs=2, backend=sys.argv[1])
        for round in range(2):
            results = parallel(joblib.delayed(work)(a, 7 + round) for a in arrays)
            for a, (kind, view, made, others) in zip(arrays, results):
                assert kind == type(a).__name__, (kind, round)
                assert type(view) is type(a) and type(made) is snp.SharedNDArray
                assert (a[..., 0] == 7 + round).all() and made.tolist() == [7 + round] * 3
                view[...] = -1
                others["all"][0][..., 1] = -2
                assert (a[..., 0] == -1).all() and (a[..., 1] == -2).all()
        # Elsewhere it is by value as before.
        for a in arrays:
            assert type(pickle.loads(pickle.dumps(a))) is np.ndarray or type(a) is Derived
        assert joblib.hash(small) == joblib.hash(small)
        del results, a, view, made, others
        assert snp.stats()["in_flight"] == 0, snp.stats()
"""


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_joblib(tmp_path, backend):
    pytest.importorskip("joblib", reason="joblib needs Python 3.8")
    run(tmp_path, JOBLIB, backend)


def test_loky_itself(tmp_path):
    """joblib has a copy of loky; loky's own module is registered with under its own name."""
    pytest.importorskip("joblib", reason="joblib needs Python 3.8")
    run(tmp_path, """
        import sys
        import shared_numpy as snp

        def work(a):
            a += 1
            return a[1:]

        if __name__ == "__main__":
            import joblib.externals.loky as loky
            a = snp.zeros(200000)
            with loky.ProcessPoolExecutor(2) as executor:
                view = executor.submit(work, a).result(timeout=100)
                assert type(view) is snp.SharedNDArray and a.sum() == 200000
                view[0] = 5
                assert a[1] == 5
                views = list(executor.map(work, [a, a, a]))
                assert a[1] == 8 and len(views) == 3
    """)


def test_lokys_tables_are_filled_whoever_is_imported_first(tmp_path):
    run(tmp_path, """
        import sys, types
        tables = {}

        def loky(name):
            module = types.ModuleType(name)
            module.register = tables.setdefault(name, {}).__setitem__
            sys.modules[name] = module

        loky("loky.backend.reduction")
        import copy, pickle
        import numpy as np
        import shared_numpy as snp
        a = snp.ones(3)
        assert list(tables["loky.backend.reduction"]) == [snp.SharedNDArray]
        loky("joblib.externals.loky.backend.reduction")
        assert type(copy.deepcopy([a])[0]) is np.ndarray and type(pickle.loads(pickle.dumps(a))) is np.ndarray
        assert list(tables["joblib.externals.loky.backend.reduction"]) == [snp.SharedNDArray]

        class Derived(snp.SharedNDArray):
            pass

        assert all(list(table) == [snp.SharedNDArray, Derived] for table in tables.values())
    """)


def test_a_pickler_that_calls_pickle_meanwhile_is_not_asked_for_a_handle():
    """Only what the pickler itself asks for is by handle, not what some `__reduce__` pickles on the way."""
    source = """
        import pickle
        def dumps(obj):
            return pickle.dumps(obj)
        def copied(obj):
            import copy
            return copy.deepcopy(obj)
    """
    name = "loky.backend.reduction"
    module = type(sys)(name)
    module.register = lambda cls, reduce: None
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(textwrap.dedent(source), module.__dict__)
        a = snp.ones(3)
        assert type(pickle.loads(module.dumps([a])[:])[0]) is snp.SharedNDArray
        assert type(module.copied([a])[0]) is np.ndarray
        assert type(pickle.loads(pickle.dumps(a))) is np.ndarray
        assert type(copy.copy(a)) is np.ndarray
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


# -- a.shm.name as the name of a SharedMemory -----------------------------------------------


def fill(name, value):
    memory = SharedMemory(name)
    memory.buf[:8] = np.float64(value).tobytes()
    memory.close()


def test_the_name_of_an_array_opens_as_shared_memory(context):
    """What programs did before: `SharedMemory(a.shm.name)` in the worker."""
    if "tracker" in DISABLED and context.get_start_method() != "fork":
        pytest.skip("SHARED_NUMPY_DISABLE=tracker: a name does not tell which process to ask")
    a = snp.zeros(100)
    process = context.Process(target=fill, args=(a.shm.name, 7.5))
    process.start()
    process.join(60)
    assert process.exitcode == 0 and a[0] == 7.5


def test_the_face_of_what_a_name_opens():
    before = in_use()
    a = snp.zeros(100)
    memory = SharedMemory(name="/" + a.shm.name)
    assert memory.size == len(memory.buf) == 800 and memory.name == a.shm.name and memory._fd == -1
    np.ndarray((100,), float, buffer=memory.buf)[3] = 4
    assert a[3] == 4
    other = pickle.loads(pickle.dumps(memory))
    other.buf[24:32] = bytes(8)
    assert a[3] == 0 and a.shm.name in repr(memory)
    memory.unlink(), memory.unlink()
    memory.close(), memory.close()
    assert memory.buf is None and memory._fd == -1
    a[3] = 5
    # It holds the memory, as long as it is open.
    del a
    assert in_use() > before and bytes(other.buf[24:32]) == np.float64(5).tobytes()
    other.close()
    del memory, other
    assert in_use() == before


def test_views_and_long_names():
    a = snp.zeros(100, dtype=[("a field with a long name {}".format(n), "f4") for n in range(20)])
    assert len(a.shm.name) > 255, "longer than a file's name can be"
    assert SharedMemory(a.shm.name).size == a.nbytes
    assert SharedMemory(a[10:].shm.name).size == a.nbytes
    with SharedMemory(a.shm.name, readonly=True) as memory:
        assert memory.buf.readonly
        with pytest.raises(TypeError):
            memory.buf[0] = 1


def test_names_that_lead_nowhere_are_not_found():
    a = snp.zeros(3)
    name = a.shm.name
    del a
    for bad in (name, "snp_00.IjxmOCI", "snp_.", "snp_" + "0" * 160 + ".IjxmOCI", name[:-3], "snp_xy.IjxmOCI"):
        with pytest.raises(FileNotFoundError):
            SharedMemory(bad)


def test_an_unrelated_program_does_not_find_it():
    a = snp.zeros(3)
    code = """
        import sys
        from shared_numpy.shared_memory import SharedMemory
        try:
            SharedMemory(sys.argv[1])
        except FileNotFoundError:
            print("none")
    """
    environment = {key: value for key, value in os.environ.items() if key != "SHARED_NUMPY_FAMILY"}
    out = subprocess.check_output([sys.executable, "-c", textwrap.dedent(code), a.shm.name], env=environment)
    assert out == b"none\n"
