"""What is said when a program ends, and what is not: a correct program hears nothing, what is left goes with a warning."""

import os

import pytest

from shared_numpy import resource_tracker
from shared_numpy.shared_memory import SharedMemory
from programs import shm_exists
from strangers import LEAKED, run, start, wait_until_gone


def test_a_correct_program_hears_nothing(tmp_path):
    assert run(tmp_path, """
        from shared_numpy import resource_tracker
        from shared_numpy.shared_memory import SharedMemory
        resource_tracker.ensure_running()
        for _ in range(3):
            made = SharedMemory(create=True, size=10)
            made.close()
            made.unlink()
    """) == (0, "", "")


def test_what_is_left_goes_with_a_warning(tmp_path):
    code, out, err = run(tmp_path, """
        from shared_numpy.shared_memory import SharedMemory
        for _ in range(2):
            print(SharedMemory(create=True, size=10).name)
    """)
    assert code == 0
    names = out.split()
    assert LEAKED.format(2, "shared_memory") in err
    assert not any(shm_exists(name) for name in names)


def test_unregistering_after_an_attach_is_harmless(tmp_path):
    """What much code does against the standard library's habit (bpo-38119)."""
    made = SharedMemory(create=True, size=10)
    program = """
        import sys
        from shared_numpy import resource_tracker
        from shared_numpy.shared_memory import SharedMemory
        shm = SharedMemory(sys.argv[1])
        resource_tracker.unregister(shm._name, "shared_memory")
        resource_tracker.unregister(shm._name, "shared_memory")
        shm.close()
        own = SharedMemory(create=True, size=10)
        same = SharedMemory(own.name)
        print(own.name)
    """
    code, out, err = run(tmp_path, program, made.name)
    assert code == 0
    assert shm_exists(made.name)
    assert LEAKED.format(1, "shared_memory") in err and "Traceback" not in err
    assert not shm_exists(out.strip())
    # In a process of the same program, forked or not, the owner's claim stands.
    resource_tracker.unregister("/shared_numpy_never_registered", "shared_memory")
    made.close()
    made.unlink()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_unlinked_and_unregistered_by_another_process_is_settled(tmp_path):
    """As code does that speaks to `_posixshmem` itself."""
    assert run(tmp_path, """
        import os
        from shared_numpy import _posixshmem, resource_tracker
        from shared_numpy.shared_memory import SharedMemory
        made = SharedMemory(create=True, size=10)
        if os.fork() == 0:
            _posixshmem.shm_unlink(made._name)
            resource_tracker.unregister(made._name, "shared_memory")
            os._exit(0)
        assert os.wait()[1] == 0
        made.close()
    """) == (0, "", "")


def test_a_program_without_stderr(tmp_path):
    """Its descriptor 2 is a file of its own, into which nobody may write."""
    path = tmp_path / "own"
    code, out, err = run(tmp_path, """
        import os, sys
        # As a daemon does, and as an interpreter finds it that starts without one.
        os.close(2)
        sys.stderr = sys.__stderr__ = None
        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        assert fd == 2
        from shared_numpy.shared_memory import SharedMemory
        print(SharedMemory(create=True, size=10).name)
    """, str(path))
    assert code == 0
    wait_until_gone(out.strip())
    assert path.read_bytes() == b""


def test_a_killed_program_leaves_nothing(tmp_path):
    process = start(tmp_path, """
        import time
        from shared_numpy.shared_memory import SharedMemory
        print(SharedMemory(create=True, size=10).name, flush=True)
        time.sleep(60)
    """)
    name = process.stdout.readline().strip()
    assert shm_exists(name)
    process.kill()
    err = process.communicate(timeout=60)[1]
    assert LEAKED.format(1, "shared_memory") in err
    assert not shm_exists(name)
