"""Environments made for the test with a copy of the package: what counts is what a fresh interpreter imports there."""

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap

import pytest

import shared_numpy
from shared_numpy import _pth
from programs import OLD

PACKAGE = os.path.dirname(os.path.abspath(shared_numpy.__file__))

# What makes the standard imports ours on the running version.
FLAGS = [] if OLD else ["--replace"]
INSTALL = "shared_numpy.install({})".format("" if OLD else "replace=True")
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
