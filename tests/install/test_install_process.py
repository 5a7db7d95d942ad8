"""`install` and `uninstall` for one process and its children; and what importing the package costs before."""

import os
import shutil
import textwrap

import pytest

from fresh_environment import Environment, INSTALL, only_new, third_party
from programs import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_install_reaches_each_kind_of_child(shared_environment, method):
    program = third_party("import shared_numpy", INSTALL)
    assert shared_environment.program(program, method) == (0, "manager's is gone\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_install_reaches_children_where_only_sys_path_finds_the_package(
        tmp_path, shared_environment, method):
    """As with `--target`: the child must find the package before it has the parent's path."""
    bare = Environment(tmp_path / "venv", with_package=False)
    place = str(tmp_path / "place")
    shutil.copytree(shared_environment.package, os.path.join(place, "shared_numpy"))
    program = third_party("sys.path.append({!r})".format(place), "import shared_numpy", INSTALL)
    assert bare.program(program, method) == (
        0, "manager's is gone\n", "")


def test_install_twice_is_as_once_and_uninstall_takes_it_back(shared_environment):
    code = """
        import sys
        import multiprocessing.managers, multiprocessing.forkserver, multiprocessing.spawn

        def look():
            return {
                (name, key): id(value)
                for name, module in sorted(sys.modules.items())
                if name.partition(".")[0] in ("multiprocessing", "_posixshmem")
                for key, value in vars(module).items() if key != "__builtins__"
            }, list(sys.meta_path)

        import shared_numpy
        # It imports nothing that the comparison would show.
        shared_numpy.install
        before = look()
        shared_numpy.INSTALL
        once = look()
        assert once != before
        shared_numpy.INSTALL
        assert look() == once
        from multiprocessing.shared_memory import SharedMemory
        from multiprocessing.managers import SharedMemoryManager
        assert SharedMemory is shared_numpy.shared_memory.SharedMemory
        assert SharedMemoryManager is shared_numpy.managers.SharedMemoryManager
        assert multiprocessing.shared_memory is shared_numpy.shared_memory
        assert shared_numpy.uninstall() is True
        after = look()
        # The import system keeps what was imported meanwhile, as it does always.
        for key, value in before[0].items():
            assert after[0].get(key) == value, key
        assert after[1] == before[1]
        assert not [module.__name__ for module in list(sys.modules.values())
                    if module.__name__.startswith("shared_numpy.")
                    and module in [vars(multiprocessing).get(name) for name in vars(multiprocessing)]]
        try:
            import multiprocessing.shared_memory
        except ImportError:
            assert sys.version_info < (3, 8)
            assert not hasattr(multiprocessing.managers, "SharedMemoryManager")
        else:
            assert multiprocessing.shared_memory.__name__ == "multiprocessing.shared_memory"
        assert shared_numpy.uninstall() is False
        shared_numpy.INSTALL
        import multiprocessing.shared_memory
        assert multiprocessing.shared_memory is shared_numpy.shared_memory
    """.replace("shared_numpy.INSTALL", INSTALL)
    assert shared_environment.run(code) == (0, "", "")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_install_after_the_first_children(shared_environment, method):
    """A fork server and a tracker of the standard library are running by then."""
    program = third_party("""
        context = mp.get_context(sys.argv[1])
        early = context.Lock()
        process = context.Process(target=abs, args=(1,))
        process.start()
        process.join()
        import shared_numpy
    """, INSTALL)
    assert shared_environment.program(program, method) == (0, "manager's is gone\n", "")


@only_new
def test_install_leaves_the_standard_modules_of_new_versions_alone(shared_environment):
    code = """
        import sys
        import shared_numpy
        before = list(sys.meta_path), set(sys.modules)
        shared_numpy.install()
        from multiprocessing import managers, resource_tracker, shared_memory
        for module in (managers, resource_tracker, shared_memory):
            assert module.__name__.startswith("multiprocessing."), module
        assert managers.SharedMemoryManager.__module__ == "multiprocessing.managers"
        assert list(sys.meta_path) == before[0]
        assert shared_numpy.uninstall() is False
    """
    assert shared_environment.run(code) == (0, "", "")


@pytest.mark.parametrize("first", ["multiprocessing.managers", "shared_numpy.managers"])
def test_the_two_managers_modules_find_each_other(shared_environment, first):
    """Each imports the other; whichever comes first, the standard one ends up with ours."""
    code = """
        import shared_numpy
        {}
        import {}
        import multiprocessing.managers, shared_numpy.managers
        for name in ("SharedMemoryManager", "SharedMemoryServer"):
            assert getattr(multiprocessing.managers, name) is getattr(shared_numpy.managers, name)
        assert "SharedMemoryManager" in multiprocessing.managers.__all__
        assert shared_numpy.managers.SyncManager is multiprocessing.managers.SyncManager
    """.format(INSTALL, first)
    assert shared_environment.run(code) == (0, "", "")


def test_a_semaphore_survives_a_change_of_trackers(shared_environment):
    """Each tracker hears of the end of what it knows, and nobody prints anything."""
    program = """
        import multiprocessing as mp
        import shared_numpy

        def work(*locks):
            for lock in locks:
                with lock:
                    pass

        def use(context, *locks):
            process = context.Process(target=work, args=locks)
            process.start()
            process.join()
            assert process.exitcode == 0

        if __name__ == "__main__":
            context = mp.get_context("spawn")
            before = context.Lock()
            {install}
            during = context.Lock()
            use(context, before, during)
            if {uninstall}:
                assert shared_numpy.uninstall()
                after = context.Lock()
                use(context, before, during, after)
    """
    for uninstall in (False, True):
        text = program.format(install=INSTALL, uninstall=uninstall)
        assert shared_environment.program(text) == (0, "", ""), uninstall


def test_a_broken_package_says_so_when_asked_to_install(tmp_path):
    broken = Environment(tmp_path / "venv")
    for name in os.listdir(broken.package):
        if name.startswith("_core"):
            os.unlink(os.path.join(broken.package, name))
    code, out, err = broken.run("import shared_numpy; " + INSTALL)
    assert code == 1
    assert "ImportError" in err


def test_shared_memory_imports_neither_numpy_nor_multiprocessing(shared_environment):
    code = """
        import sys
        from shared_numpy import shared_memory
        shared_memory.SharedMemory
        import shared_numpy
        shared_numpy.resource_tracker, shared_numpy.__version__, shared_numpy.install
        print([name for name in sorted(set(sys.modules) - before) if not name.startswith("shared_numpy")])
    """
    # What is there in any interpreter, and the one module that 3.9 and newer need.
    code = "import sys; before = set(sys.modules) | {'types'}\n" + textwrap.dedent(code)
    assert shared_environment.run(code) == (0, "[]\n", "")


def test_the_package_lists_and_finds_its_names(shared_environment):
    code = """
        import shared_numpy
        assert set(shared_numpy.__all__) <= set(dir(shared_numpy))
        for name in ("shared_memory", "resource_tracker", "managers", "install", "__version__"):
            getattr(shared_numpy, name)
        try:
            shared_numpy.nothing
        except AttributeError as error:
            print(error)
        from shared_numpy import managers, resource_tracker, semaphore_tracker, shared_memory
        from shared_numpy import install, uninstall
        assert callable(install) and callable(uninstall)
    """
    assert shared_environment.run(code) == (
        0, "module 'shared_numpy' has no attribute 'nothing'\n", "")
