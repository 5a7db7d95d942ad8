"""Where no tracker can be had everything works, and one warning says so."""

import pytest

from strangers import INSTALL, environ, run

UNTRACKED = """
    import multiprocessing as mp
    {install}
    from shared_numpy import resource_tracker
    from shared_numpy.shared_memory import SharedMemory

    def work(name):
        other = SharedMemory(name)
        other.buf[0] = 1
        other.close()
        made = SharedMemory(create=True, size=10)
        made.close()
        made.unlink()

    if __name__ == "__main__":
        made = SharedMemory(create=True, size=10)
        context = mp.get_context("spawn")
        process = context.Process(target=work, args=(made.name,))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert made.buf[0] == 1
        made.close()
        made.unlink()
"""


@pytest.mark.parametrize("install", ["", INSTALL], ids=["plain", "installed"])
def test_without_a_tracker_everything_works_and_one_warning_says_so(tmp_path, install):
    code, out, err = run(
        tmp_path, UNTRACKED.format(install=install), env=environ(SHARED_NUMPY_DISABLE="tracker"))
    assert (code, out) == (0, "")
    assert err.count("UserWarning") == 1, err
    assert "will not be cleaned up" in err
    assert "Traceback" not in err


def test_a_missing_executable_is_named(tmp_path):
    code, out, err = run(tmp_path, """
        from shared_numpy import _tracker
        _tracker._DIRECTORY = "/nonexistent"
        from shared_numpy.shared_memory import SharedMemory
        for _ in range(2):
            made = SharedMemory(create=True, size=10)
            made.close()
            made.unlink()
    """)
    assert (code, out) == (0, "")
    assert err.count("UserWarning") == 1
    assert "/nonexistent/shared-numpy-tracker cannot be started (No such file or directory). " in err


def test_a_warning_made_an_error_leaves_nothing_behind(tmp_path):
    assert run(tmp_path, """
        import os, warnings
        from shared_numpy.shared_memory import SharedMemory
        warnings.simplefilter("error")
        for arguments in ({}, {"name": "shared_numpy_error"}):
            from shared_numpy import _tracker
            _tracker._warned = False
            try:
                SharedMemory(create=True, size=10, **arguments)
            except UserWarning:
                pass
            else:
                raise AssertionError(arguments)
        assert not os.path.exists("/dev/shm/shared_numpy_error")
    """, env=environ(SHARED_NUMPY_DISABLE="tracker")) == (0, "", "")
