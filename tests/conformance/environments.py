"""Interpreters, and one throw-away virtual environment for each of them.

Guarantees: nothing is installed anywhere but in `<venv-dir>/conformance-<tag>` (or `baseline-<tag>`), which are made
anew each time and have no pip and no NumPy; whether that works with neither is part of what is tested. What does need
NumPy is lent that of our own tests' environment, and nothing else of it (`lend_numpy`).
Standard library only, 3.6 syntax.
"""
import collections
import glob
import os
import shutil
import stat
import subprocess
import sys
import zipfile

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SETUP_LIMIT_S = 120

# The older interpreters, and the one whose tests they run.
BACKPORT_TAGS = ("cp36", "cp37")
BACKPORT_SOURCE = "cp38"

Interpreter = collections.namedtuple("Interpreter", "tag path version tests")
Interpreter.__doc__ = "`tests` is the path of its test/_test_multiprocessing.py, or None where none is installed."


class SetupError(Exception):
    """An environment could not be made; the text says why."""


class NoTests(SetupError):
    """This machine lacks the test file that the interpreter would run: nobody's fault."""


def clean_environment():
    """Our environment variables without those that change what a Python imports."""
    return {key: value for key, value in os.environ.items()
            if not key.startswith(("PYTHON", "CONFORMANCE_", "SHARED_NUMPY_")) and key != "VIRTUAL_ENV"}


def _run(command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=SETUP_LIMIT_S, env=clean_environment(), **options)
    text = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        raise SetupError("{} ended with {}:\n{}".format(" ".join(command), done.returncode, text))
    return text


def discover():
    """Every interpreter that ci/interpreters.py names, oldest first."""
    script = os.path.join(REPOSITORY, "ci", "interpreters.py")
    found = []
    for line in _run([sys.executable, script, "--lines"]).splitlines():
        tag, path = line.split(None, 1)
        found.append(describe(tag, path))
    return sorted(found, key=lambda interpreter: interpreter.version)


def describe(tag, path):
    """Ask the interpreter at `path` for its version and for its tests."""
    code = ("import os, sys; tests = os.path.join(os.path.dirname(os.__file__), 'test', '_test_multiprocessing.py'); "
            "print(*sys.version_info[:3]); print(tests if os.path.exists(tests) else '')")
    version, tests = (_run([path, "-I", "-c", code]) + "\n").split("\n")[:2]
    return Interpreter(tag, path, tuple(int(part) for part in version.split()), tests or None)


def runs_backport(suite, interpreter):
    """Whether it runs a later version's tests of that subject, having none itself."""
    return suite.backport and interpreter.tag in BACKPORT_TAGS


def test_file(suite, interpreter, everyone):
    """(path, version) of the test file that `interpreter` runs. NoTests when there is none on this machine."""
    source = interpreter
    if runs_backport(suite, interpreter):
        sources = [other for other in everyone if other.tag == BACKPORT_SOURCE]
        if not sources:
            raise NoTests("its tests are those of CPython 3.8, which was not found")
        source = sources[0]
    if source.tests is None:
        raise NoTests("{} is installed without CPython's own tests".format(source.path))
    return source.tests, source.version


def make(interpreter, directory, wheel):
    """A fresh environment in `directory`; with the wheel installed and put in place, unless `wheel` is None.

    Returns (path of its python, what the installation said).
    """
    if os.path.isdir(directory):
        shutil.rmtree(directory)
    _run([interpreter.path, "-m", "venv", "--without-pip", directory])
    python = os.path.join(directory, "bin", "python")
    if wheel is None:
        return python, ""
    site_packages = _run([python, "-I", "-c", "import sysconfig; print(sysconfig.get_paths()['platlib'])"])
    unpack(wheel, site_packages)
    command = [python, "-m", "shared_numpy", "install"]
    if interpreter.tag not in BACKPORT_TAGS:
        command.append("--replace")
    return python, _run(command, cwd=directory)


def lend_numpy(directory, lender):
    """A directory, for PYTHONPATH, that has the NumPy of the environment `lender`; made in the environment `directory`."""
    found = glob.glob(os.path.join(lender, "lib", "python3*", "site-packages", "numpy"))
    if len(found) != 1:
        raise SetupError("no NumPy in {}: `make venvs` puts it there, --numpy-from names other environments".format(lender))
    shelf = os.path.join(directory, "numpy")
    os.mkdir(shelf)
    # NumPy finds its shared libraries beside itself.
    for path in found + glob.glob(found[0] + ".libs"):
        os.symlink(path, os.path.join(shelf, os.path.basename(path)))
    return shelf


def unpack(wheel, site_packages):
    """Install a wheel as PEP 427 says, for one that has nothing outside site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if ".data/" in entry.filename or entry.filename.startswith(("/", "..")):
                raise SetupError("{} has {}, which is not for site-packages".format(wheel, entry.filename))
            path = archive.extract(entry, site_packages)
            mode = entry.external_attr >> 16
            if stat.S_ISREG(mode):
                os.chmod(path, stat.S_IMODE(mode))
