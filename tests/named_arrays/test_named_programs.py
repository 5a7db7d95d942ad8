"""Named arrays in unrelated programs: what each sees of the other's, and how long a name lives."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from named_files import gone_soon, make, path_of, program  # noqa: E402
from strangers import environ  # noqa: E402


def test_unrelated_programs_share(name):
    made = make(name, (3, 4), "i4,U5", order="F")
    made["f0"] = np.arange(12).reshape(3, 4)
    told = program("""
        a = snp.attach(sys.argv[1])
        print(a.shape, a.dtype.descr, a.flags.f_contiguous, a["f0"].tolist())
        a["f1"] = "hello"
        del a
        b = snp.attach(sys.argv[1], readonly=True)
        """, name)
    assert told == "{} {} True {}".format(made.shape, made.dtype.descr, made["f0"].tolist())
    assert (made["f1"] == "hello").all()
    assert os.path.exists(path_of(name)), "whoever opened it has no duty"


def test_the_name_goes_with_the_program_that_made_it(name):
    program("snp.ndarray(3, name=sys.argv[1])", name)
    assert gone_soon(name)


def test_a_persistent_name_stays(name):
    program("snp.ndarray(3, name=sys.argv[1], persist=True)[:] = 3", name)
    time.sleep(0.2)
    assert (snp.attach(name) == 3).all()
    program("snp.unlink(sys.argv[1])", name)
    assert not os.path.exists(path_of(name))


def test_dropping_it_removes_nothing(name):
    made = make(name)
    made[:] = 4
    made.close()
    del made
    gc.collect()
    assert (snp.attach(name) == 4).all()


@pytest.mark.parametrize("persist", [False, True])
def test_a_killed_maker(name, persist):
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys, time, shared_numpy as snp\n"
         "a = snp.ndarray(100, name=sys.argv[1], persist=bool(int(sys.argv[2])))\n"
         "a[:] = 6\nprint(flush=True)\ntime.sleep(60)", name, str(int(persist))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environ())
    with child:
        child.stdout.readline()
        reader = snp.attach(name)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if persist:
            time.sleep(0.2)
            assert os.path.exists(path_of(name))
        else:
            assert gone_soon(name)
        assert (reader == 6).all(), "readers keep it"
        assert child.stderr.read() == b"", "arrays are removed in silence"


def test_a_maker_killed_while_memory_is_reserved(name):
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys, os, signal, shared_numpy as snp\n"
         "from shared_numpy import _core\n"
         "def die(*arguments):\n"
         "    assert os.path.getsize('/dev/shm/' + sys.argv[1]) == 8\n"
         "    print('claimed', flush=True)\n"
         "    os.kill(os.getpid(), signal.SIGKILL)\n"
         "_core.named_fill = die\nsnp.ndarray(3, name=sys.argv[1])", name],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    told, complaints = child.communicate(timeout=60)
    assert told == b"claimed\n" and not complaints and child.returncode == -signal.SIGKILL
    assert gone_soon(name)


def test_another_array_of_the_name_is_not_removed_by_the_tracker(name):
    program("""
        a = snp.ndarray(3, name=sys.argv[1])
        os.unlink("/dev/shm/" + sys.argv[1])
        b = snp.ndarray(5, name=sys.argv[1], persist=True)
        """, name)
    time.sleep(0.3)
    assert snp.attach(name).shape == (5,)


@pytest.mark.parametrize("first", ["named", "arrays", "reduction", "queue"])
def test_modules_can_be_imported_in_any_order(first):
    assert program("import importlib\nimportlib.import_module('shared_numpy.' + sys.argv[1])\n"
                   "print(snp.attach.__module__, snp.ndarray(3).shape)", first) == "shared_numpy.named (3,)"


def test_without_numpy_the_error_says_how_to_get_it():
    told = program("""
        for module in [name for name in sys.modules if name.partition(".")[0] in ("numpy", "shared_numpy")]:
            del sys.modules[module]
        sys.modules["numpy"] = None
        import shared_numpy
        try:
            shared_numpy.attach("camera0")
        except ImportError as error:
            print(error)
        """)
    assert "shared-numpy[arrays]" in told
