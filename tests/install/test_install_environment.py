"""`install` and `uninstall` for an environment: programs run unmodified, the way back is exact, unsafe places are refused."""

import json
import os
import shutil
import stat

import pytest

import shared_numpy
from shared_numpy import _pth
from fresh_environment import Environment, FLAGS, base_python, only_new, third_party
from programs import METHODS, OLD


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
