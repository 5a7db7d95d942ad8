"""The installation of a whole environment: one ``.pth`` file in site-packages.

Python runs the file's one line of code at each start, also under ``-I`` and ``-E``.
What is guaranteed:

- the line does nothing but leave a small object that compares names; without this
  package it does nothing at all, and no failure is ever seen;
- the file is complete or not there (temporary file and rename), and is written only
  into a directory that nobody else can write;
- only what was written here, byte for byte, is removed again.
"""

import hashlib
import os
import site
import stat
import subprocess
import sys
import sysconfig
import tempfile

from . import _finder

FILE_NAME = "shared_numpy_multiprocessing.pth"

_HEAD = "# {what} by `python -m shared_numpy install`; `... uninstall` removes it. sha256 of the rest: "
_WHAT = {False: "multiprocessing.shared_memory for Python 3.6 and 3.7, written",
         True: "the standard multiprocessing.shared_memory replaced, written"}

# Names are compared here, in the environment's own start-up file, so that a program
# which needs none of them does not even look for the package. At the first match the
# finder of the package takes over.
_HOOK = """\
class SharedNumpyHook:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in {names!r}:
            try:
                from shared_numpy import _finder
                return _finder.activate({replace!r}).find_spec(name, path, target)
            except Exception:
                pass
sys.meta_path.insert(0, SharedNumpyHook)
"""

# Run in a new interpreter after writing: the proof that the line works.
_PROOF = """\
import multiprocessing.shared_memory as m
from multiprocessing.managers import SharedMemoryManager
print(m.__name__ if m.__name__ == SharedMemoryManager.__module__.replace('managers', 'shared_memory') else None)
"""


class Refused(Exception):
    """Why nothing was done, in words for the user."""


def content(replace):
    """The file's bytes. Where there is nothing to replace, ``replace`` is no difference."""
    replace = bool(replace) and sys.version_info >= (3, 8)
    code = _HOOK.format(names=tuple(_finder.watched(replace)), replace=replace)
    # One namespace of its own: the line runs inside a function of `site`.
    text = "import sys; exec({!r}, {{'sys': sys, '__name__': 'shared_numpy_pth'}})\n".format(code)
    line = text.encode("ascii")
    head = _HEAD.format(what=_WHAT[replace]).encode("ascii")
    return head + hashlib.sha256(line).hexdigest().encode("ascii") + b"\n" + line


def is_ours(data):
    """Whether these bytes are a file of ours, of whatever version, unchanged."""
    head, newline, line = data.partition(b"\n")
    if not newline or not line.endswith(b"\n") or line.count(b"\n") != 1:
        return False
    for what in _WHAT.values():
        expected = _HEAD.format(what=what).encode("ascii")
        if head == expected + hashlib.sha256(line).hexdigest().encode("ascii"):
            return True
    return False


def replaces(data):
    """Whether a file of ours replaces standard modules."""
    return data.startswith(b"# " + _WHAT[True].encode("ascii"))


def package_directory():
    """Where the package lies: the directory that ``sys.path`` has to name."""
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def directory():
    """The directory of this environment for the file.

    That is where the package itself lies if Python reads ``.pth`` files there, else
    (an editable installation, a virtual environment over a system's packages) the
    environment's site-packages: what lies outside of an environment is never touched.
    """
    own = sysconfig.get_path("purelib")
    if sys.prefix != sys.base_prefix:
        return own
    here = package_directory()
    candidates = [own, sysconfig.get_path("platlib")]
    # The `site` of old virtualenvs has no such function.
    candidates += getattr(site, "getsitepackages", list)()
    if user_site():
        candidates.append(user_site())
    for candidate in candidates:
        if os.path.isdir(candidate) and os.path.samefile(candidate, here):
            return candidate
    return own


def user_site():
    """The user's own site-packages, where this interpreter reads them; else None."""
    return site.USER_SITE if site.ENABLE_USER_SITE else None


def find():
    """The path of the installed file and its bytes, or ``(None, None)``."""
    path = os.path.join(directory(), FILE_NAME)
    try:
        with open(path, "rb") as file:
            return path, file.read()
    except FileNotFoundError:
        return None, None


def install(replace=False):
    """Writes the file and proves that it works.

    Returns
    -------
    path : str
        Of the file.
    changed : bool
        False if it was there already.

    Raises
    ------
    Refused
        In words for the user; nothing is left behind then.
    """
    data = content(replace)
    path, present = find()
    if present is not None and not is_ours(present):
        raise Refused(
            "{} exists and is not what `install` writes: it was changed, or somebody "
            "else's. Remove it yourself if you do not need it.".format(path))
    if present == data:
        return path, False
    place = directory()
    check_place(place)
    target = os.path.join(place, FILE_NAME)
    write(target, data)
    proof = prove()
    if proof is not None:
        if present is None:
            os.unlink(target)
        else:
            write(target, present)
        raise Refused(
            "The line in {} had no effect in a new interpreter, and was taken back. {}"
            .format(target, proof))
    return target, True


def uninstall():
    """Removes the file; returns its path, or None if there is none.

    Raises
    ------
    Refused
        It is not as `install` wrote it, or cannot be removed.
    """
    path, data = find()
    if path is None:
        return None
    if not is_ours(data):
        raise Refused(
            "{} is not as `install` wrote it, and stays. Look into it, and remove it "
            "yourself.".format(path))
    try:
        os.unlink(path)
    except OSError as error:
        raise Refused("{} cannot be removed: {}".format(path, error.strerror))
    return path


def check_place(place):
    """Refuses a directory that others can write: they could change what we run.

    Raises
    ------
    Refused
        With the reason and a remedy.
    """
    for path in (place, os.path.dirname(os.path.abspath(__file__))):
        try:
            status = os.stat(path)
        except OSError as error:
            raise Refused("{}: {}".format(path, error.strerror))
        if status.st_uid != os.geteuid():
            raise Refused(
                "{} belongs to {}, not to you: whoever owns it decides what each start "
                "of this interpreter runs. Run this as the owner, or in an environment "
                "of your own (python -m venv).".format(path, owner(status.st_uid)))
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o002 or mode & 0o020 and not is_private_group(status):
            raise Refused(
                "{} can be written by others (mode {:o}): they could change what each "
                "start of this interpreter runs. `chmod go-w` it first."
                .format(path, mode))


def is_private_group(status):
    """Whether the group of a file is the owner's own, as many systems set up.

    There the usual umask is 002, and a writable group means nobody else.
    """
    import grp
    import pwd
    try:
        user = pwd.getpwuid(status.st_uid)
        group = grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return (group.gr_gid == user.pw_gid and group.gr_name == user.pw_name
            and set(group.gr_mem) <= {user.pw_name})


def owner(uid):
    """A user's name for a message."""
    import pwd
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "user {}".format(uid)


def write(path, data):
    """Replaces a file in one step; what is there before stays on any failure.

    Raises
    ------
    Refused
        The system does not let us.
    """
    temporary = None
    try:
        # Not a name that ends in .pth: an interpreter may start in between.
        fd, temporary = tempfile.mkstemp(
            prefix=".shared_numpy-", suffix=".tmp", dir=os.path.dirname(path))
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            # Each user of the environment must be able to read it.
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            try:
                os.unlink(temporary)
            except OSError:
                pass
        if isinstance(error, OSError):
            raise Refused("{} cannot be written: {}".format(path, error.strerror))
        raise


def prove():
    """Imports in a new interpreter; None if it finds our module, else what is wrong."""
    # The user's own site-packages are out of sight under -I.
    in_user_site = directory() == user_site()
    command = [sys.executable, "-B"] + ([] if in_user_site else ["-I"]) + ["-c", _PROOF]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd="/")
    output, errors = process.communicate()
    if output.decode("utf-8", "replace").strip() == "shared_numpy.shared_memory":
        return None
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return ("The package, in {}, is not where this interpreter looks by itself (is it "
            "found through PYTHONPATH, or installed with --target?){}. "
            "shared_numpy.install() works there.".format(
                package_directory(), ": " + lines[-1] if lines else ""))
