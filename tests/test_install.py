"""`install` and `uninstall`, for one process and for an environment.

Environments are real ones, made for the test with a copy of the package: what counts
is what a fresh interpreter imports there.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap

import pytest

import shared_numpy
from shared_numpy import _pth

OLD = sys.version_info < (3, 8)
METHODS = ("fork", "spawn", "forkserver")
PACKAGE = os.path.dirname(os.path.abspath(shared_numpy.__file__))
# What makes the standard imports ours on the running version.
FLAGS = [] if OLD else ["--replace"]
INSTALL = "shared_numpy.install({})".format("" if OLD else "replace=True")

only_old = pytest.mark.skipif(not OLD, reason="about Python 3.6 and 3.7")
only_new = pytest.mark.skipif(OLD, reason="about versions that have the standard modules")


def base_python():
    """The interpreter that environments are made from, not one of an environment."""
    name = "python{}.{}".format(*sys.version_info)
    path = os.path.join(sys.base_prefix, "bin", name)
    return path if os.path.exists(path) else sys.executable


class Environment:
    def __init__(self, path, with_package=True):
        self.path = str(path)
        subprocess.check_call([base_python(), "-m", "venv", "--without-pip", self.path])
        self.python = os.path.join(self.path, "bin", "python")
        self.site = self.run("import sysconfig; print(sysconfig.get_path('purelib'))")[1].strip()
        os.chmod(self.site, 0o755)
        if with_package:
            self.package = os.path.join(self.site, "shared_numpy")
            shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
            # As pip does.
            self.python_call("-m", "compileall", "-q", self.package)

    def python_call(self, *arguments, **options):
        """Runs the interpreter; gives (return code, output, errors)."""
        environ = {key: value for key, value in os.environ.items()
                   if not key.startswith(("PYTHON", "SHARED_NUMPY", "VIRTUAL_ENV"))}
        environ.update(options.pop("environ", {}))
        process = subprocess.Popen(
            [self.python] + list(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, env=environ, cwd=options.pop("cwd", "/"), **options)
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    def run(self, code, *flags, **options):
        return self.python_call(*flags, "-c", textwrap.dedent(code), **options)

    def command(self, *arguments, **options):
        return self.python_call("-m", "shared_numpy", *arguments, **options)

    def program(self, text, *arguments, **options):
        """Runs a file: a main module that spawned children can import."""
        path = os.path.join(self.path, "program.py")
        with open(path, "w") as file:
            file.write(textwrap.dedent(text))
        return self.python_call(path, *arguments, **options)

    @property
    def pth(self):
        return os.path.join(self.site, _pth.FILE_NAME)

    def fingerprint(self):
        """A hash over every file, directory and mode in site-packages."""
        total = hashlib.sha256()
        for directory, directories, files in os.walk(self.site):
            directories.sort()
            for name in sorted(files) + directories:
                path = os.path.join(directory, name)
                total.update("{} {:o}\n".format(path, os.lstat(path).st_mode).encode())
            for name in sorted(files):
                with open(os.path.join(directory, name), "rb") as file:
                    total.update(file.read())
        return total.hexdigest()


@pytest.fixture(scope="module")
def shared_environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("environment") / "venv")


@pytest.fixture
def environment(shared_environment):
    """One environment for all tests, each of which finds it as it was made."""
    yield shared_environment
    if os.path.exists(shared_environment.pth):
        os.unlink(shared_environment.pth)
    os.chmod(shared_environment.site, 0o755)


# Everything by its standard name: a third party's program.
PROGRAM = textwrap.dedent("""
    import multiprocessing as mp
    import sys

    def work(name, lock, queue):
        from multiprocessing import shared_memory
        from multiprocessing.shared_memory import SharedMemory
        segment = SharedMemory(name)
        with lock:
            segment.buf[0] = 7
        made = SharedMemory(create=True, size=10)
        queue.put((made.name, shared_memory.__name__))
        made.close()
        segment.close()

    if __name__ == "__main__":
        {preparation}
        from multiprocessing import resource_tracker, shared_memory
        from multiprocessing.managers import SharedMemoryManager
        from multiprocessing.shared_memory import ShareableList, SharedMemory
        context = mp.get_context(sys.argv[1])
        segment = SharedMemory(create=True, size=10)
        lock, queue = context.Lock(), context.Queue()
        process = context.Process(target=work, args=(segment.name, lock, queue))
        process.start()
        name, module = queue.get()
        process.join()
        assert process.exitcode == 0
        assert module == shared_memory.__name__ == "shared_numpy.shared_memory", module
        assert segment.buf[0] == 7
        # The child is gone, what it made is not: one tracker for both.
        made = SharedMemory(name)
        made.close()
        made.unlink()
        with SharedMemoryManager(ctx=context) as manager:
            items = manager.ShareableList([1, "two"])
            name = items.shm.name
        try:
            SharedMemory(name)
        except FileNotFoundError:
            print("manager's is gone")
        segment.close()
        segment.unlink()
        resource_tracker._resource_tracker.ensure_running()
        assert resource_tracker._resource_tracker._pid is not None
        assert "numpy" not in sys.modules
""")


def third_party(*preparations):
    """The program, preceded in its main part by some lines."""
    lines = "".join(textwrap.dedent(text).strip("\n") + "\n" for text in preparations)
    return PROGRAM.replace("    {preparation}\n", textwrap.indent(lines, "    "))


# -- one process --------------------------------------------------------------


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


# -- an environment -----------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("flags", [(), ("-I",), ("-E",)], ids=["plain", "-I", "-E"])
def test_installed_programs_run_unmodified(environment, method, flags):
    assert environment.command("install", *FLAGS)[0] == 0
    path = os.path.join(environment.path, "unmodified.py")
    with open(path, "w") as file:
        file.write(third_party())
    assert environment.python_call(*(flags + (path, method))) == (0, "manager's is gone\n", "")


def test_uninstall_restores_the_environment_byte_for_byte(environment):
    before = environment.fingerprint()
    code, out, err = environment.command("install", *FLAGS)
    assert (code, out, err) == (0, "installed: {}\n".format(environment.pth), "")
    assert environment.fingerprint() != before
    assert stat.S_IMODE(os.stat(environment.pth).st_mode) == 0o644
    assert environment.command("install", *FLAGS) == (
        0, "already installed: {}\n".format(environment.pth), "")
    assert environment.command("uninstall") == (
        0, "removed: {}\n".format(environment.pth), "")
    assert environment.fingerprint() == before
    assert environment.command("uninstall") == (0, "nothing is installed here\n", "")
    assert environment.fingerprint() == before


@only_new
def test_on_new_versions_install_does_nothing_unless_told(environment):
    before = environment.fingerprint()
    code, out, err = environment.command("install")
    assert (code, err) == (0, "")
    assert "nothing to do" in out and "--replace" in out
    assert environment.fingerprint() == before


def test_a_program_that_needs_none_of_it_imports_none_of_it(environment):
    environment.command("install", *FLAGS)
    code = "import sys, multiprocessing; print([m for m in sys.modules if 'shared_numpy' in m])"
    assert environment.run(code) == (0, "[]\n", "")


def test_the_line_is_silent_when_the_package_is_gone(environment, tmp_path):
    environment.command("install", *FLAGS)
    away = str(tmp_path / "away")
    os.rename(environment.package, away)
    try:
        expected = (0, "multiprocessing.managers\n", "")
        code = "import multiprocessing.managers as m, multiprocessing.synchronize; print(m.__name__)"
        assert environment.run(code) == expected
        code = "import multiprocessing.shared_memory as m; print(m.__name__)"
        status, out, err = environment.run(code)
        if OLD:
            assert status == 1
            assert "ModuleNotFoundError: No module named 'multiprocessing.shared_memory'" in err
        else:
            assert (status, out, err) == (0, "multiprocessing.shared_memory\n", "")
    finally:
        os.rename(away, environment.package)


def test_the_line_is_silent_when_the_package_is_broken(tmp_path):
    broken = Environment(tmp_path / "venv")
    broken.command("install", *FLAGS)
    for name in os.listdir(broken.package):
        if name.startswith("_core"):
            os.unlink(os.path.join(broken.package, name))
    code = """
        import multiprocessing as mp
        context = mp.get_context("spawn")
        with context.Lock():
            print(context.Manager)
    """
    status, out, err = broken.run(code)
    assert (status, err) == (0, "")


def test_a_file_that_was_changed_is_left_alone(environment):
    environment.command("install", *FLAGS)
    with open(environment.pth, "a") as file:
        file.write("# mine\n")
    before = environment.fingerprint()
    for command in (["uninstall"], ["install"] + FLAGS):
        code, out, err = environment.command(*command)
        assert (code, out) == (1, ""), command
        assert environment.pth in err and "Traceback" not in err
    assert environment.fingerprint() == before
    code, out, err = environment.command("status")
    assert code == 1 and "not as `install` wrote it" in out


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o775])
def test_a_directory_that_others_can_write_is_refused(environment, mode):
    if mode == 0o775 and os.geteuid() != 0:
        pytest.skip("the user's own group may be private, and then it is allowed")
    os.chmod(environment.site, mode)
    if mode == 0o775:
        os.chown(environment.site, -1, 12345)
    try:
        code, out, err = environment.command("install", *FLAGS)
        assert (code, out) == (1, "")
        assert "can be written by others" in err and environment.site in err
        assert not os.path.exists(environment.pth)
    finally:
        if mode == 0o775:
            os.chown(environment.site, -1, os.getegid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(environment):
    os.chown(environment.site, 12345, -1)
    try:
        code, out, err = environment.command("install", *FLAGS)
        assert (code, out) == (1, "")
        assert "belongs to user 12345" in err
        assert not os.path.exists(environment.pth)
    finally:
        os.chown(environment.site, 0, -1)


def test_a_package_that_the_interpreter_does_not_find_by_itself_is_refused(
        tmp_path, shared_environment):
    bare = Environment(tmp_path / "venv", with_package=False)
    before = bare.fingerprint()
    code, out, err = bare.command(
        "install", *FLAGS,
        environ={"PYTHONPATH": shared_environment.site, "PYTHONDONTWRITEBYTECODE": "1"})
    assert (code, out) == (1, "")
    assert "taken back" in err and "shared_numpy.install()" in err and "Traceback" not in err
    assert bare.fingerprint() == before


def test_a_package_of_the_user_is_installed_for_the_user(tmp_path, shared_environment):
    """`pip install --user`: the line goes where the package is."""
    user = Environment.__new__(Environment)
    user.path, user.python = str(tmp_path), base_python()
    variables = {"PYTHONUSERBASE": str(tmp_path / "user")}
    code = "import site; print(site.ENABLE_USER_SITE, site.USER_SITE)"
    enabled, user.site = user.run(code, environ=variables)[1].split()
    if enabled != "True":
        pytest.skip("this interpreter has no user site-packages")
    os.makedirs(user.site, 0o755)
    os.chmod(user.site, 0o755)
    shutil.copytree(shared_environment.package, os.path.join(user.site, "shared_numpy"))
    before = user.fingerprint()
    assert user.command("install", *FLAGS, environ=variables) == (
        0, "installed: {}\n".format(user.pth), "")
    code = "from multiprocessing import shared_memory as m; print(m.__name__)"
    assert user.run(code, environ=variables) == (0, "shared_numpy.shared_memory\n", "")
    assert user.command("uninstall", environ=variables)[0] == 0
    assert user.fingerprint() == before


def test_status(environment):
    code, out, err = environment.command("status", "--json")
    state = json.loads(out)
    assert err == ""
    assert code == (1 if OLD else 0)
    assert state["file"] is None and state["mode"] is None
    assert state["shared_memory"] == ("missing" if OLD else "multiprocessing.shared_memory")
    assert state["tracker"] == os.path.join(environment.package, "shared-numpy-tracker")
    assert state["tracker_problem"] is None and state["tracker_runs"] is False
    assert state["version"] == shared_numpy.__version__

    environment.command("install", *FLAGS)
    code, out, err = environment.command("status", "--json")
    state = json.loads(out)
    assert (code, err) == (0, "")
    assert state["file"] == environment.pth
    assert state["mode"] == ("backport" if OLD else "replace")
    assert state["shared_memory"] == "shared_numpy.shared_memory"
    code, out, err = environment.command("status")
    assert (code, err) == (0, "")
    for word in (environment.python, environment.pth, "shared_numpy's", "shared-numpy-tracker"):
        assert word in out


def test_status_says_why_no_tracker_can_be_started(tmp_path):
    environment = Environment(tmp_path / "venv")
    os.unlink(os.path.join(environment.package, "shared-numpy-tracker"))
    code, out, err = environment.command("status")
    assert err == ""
    assert "cannot be started" in out


def test_usage_errors_and_help(environment):
    code, out, err = environment.command()
    assert (code, out) == (2, "") and "usage" in err
    code, out, err = environment.command("repair")
    assert code == 2
    code, out, err = environment.command("--help")
    assert (code, err) == (0, "")
    for word in ("install", "uninstall", "status", "--replace"):
        assert word in out


def test_files_of_ours_are_told_from_others():
    for replace in (False, True):
        data = _pth.content(replace)
        assert _pth.is_ours(data)
        assert _pth.replaces(data) is (replace and not OLD)
        assert data.count(b"\n") == 2 and data.splitlines()[1].startswith(b"import sys; exec(")
        for other in (b"", data[:-1], data + b"\n", data.replace(b"sys", b"os", 1),
                      b"import os\n", data.split(b"\n")[1] + b"\n"):
            assert not _pth.is_ours(other), other


# -- what the package costs ---------------------------------------------------


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
