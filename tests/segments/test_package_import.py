"""Importing the package: it is light, has one home in a process, and finds its parts wherever one goes."""

import os
import subprocess
import sys
import textwrap

import pytest

from shared_numpy import shared_memory
from programs import run_python


def test_import_is_light():
    code, out, err = run_python("""
        import sys
        before = set(sys.modules)
        from shared_numpy import shared_memory
        heavy = {"numpy", "multiprocessing", "socket", "pickle", "random", "hashlib", "threading", "secrets"}
        print(sorted(heavy & (set(sys.modules) - before)))
    """)
    assert (code, out, err) == (0, "[]\n", "")


class TestInterpreters:
    """The compiled part has one home; the rest of a process may do what it likes."""

    USE = """
        from shared_numpy.shared_memory import ShareableList, SharedMemory
        items = ShareableList([1, "two"])
        items.shm.unlink()
        assert (items.format, items[1]) == ("q8s", "two")
    """

    def run(self, program):
        done = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(self.USE) + textwrap.dedent(program)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        out, errors = done.communicate()
        assert (errors, done.returncode) == ("", 0)
        return out

    def test_imported_again(self):
        self.run("""
            import importlib, sys
            import shared_numpy._core as first
            del sys.modules["shared_numpy._core"]
            second = importlib.import_module("shared_numpy._core")
            assert second.Exporter is first.Exporter and second.ListBase is first.ListBase
            ShareableList([3]).shm.unlink()
            assert (items.format, items[1]) == ("q8s", "two")
        """)

    def test_a_second_interpreter_is_refused_and_disturbs_nobody(self):
        pytest.importorskip("_testcapi")
        out = self.run("""
            import _testcapi
            code = (
                "try:\\n"
                "    from shared_numpy import shared_memory\\n"
                "except ImportError as error:\\n"
                "    print('in another interpreter' in str(error), flush=True)\\n")
            for _ in range(2):
                assert _testcapi.run_in_subinterp(code) == 0
            ShareableList([3]).shm.unlink()
            assert (items.format, items[1]) == ("q8s", "two")
        """)
        assert out == "True\nTrue\n"


def test_the_rest_is_found_after_a_change_of_directory():
    package = os.path.dirname(os.path.abspath(shared_memory.__file__))
    code, out, err = run_python("""
        import os, sys
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != sys.argv[1]]
        os.chdir(sys.argv[1])
        sys.path.insert(0, ".")
        import shared_numpy
        os.chdir("/")
        sys.path.remove(".")
        from shared_numpy import shared_memory
        shared_memory.SharedMemory(create=True, size=10).unlink()
    """, os.path.dirname(package))
    assert (code, out, err) == (0, "", "")


def test_all_that_is_public_is_found():
    import shared_numpy
    assert shared_numpy.SharedMemory is shared_memory.SharedMemory
    assert shared_numpy.ShareableList is shared_memory.ShareableList
    for name in shared_numpy.__all__:
        try:
            assert getattr(shared_numpy, name) is not None, name
        except ImportError as error:
            assert "numpy" in str(error), name  # where there is none
