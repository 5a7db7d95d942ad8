#!/usr/bin/env python3
"""Make virtual environments, once: ``make_venv.py DIR --python PATH -r requirements.txt``.

What this file guarantees:

* pip is upgraded first (3.6 ships pip 18.1, which cannot install a manylinux2014 wheel), then the requirements go in;
* a stamp in the environment records interpreter and requirements: when both are unchanged nothing is done, when the interpreter
  is another one the environment is made anew, when only requirements changed they are installed over it;
* a download that fails is tried three times, and the last error is shown;
* two processes may ask for the same environment at once: one waits for the other.
"""
import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import time

ATTEMPTS = 3
PAUSE_S = 5
STAMP = ".shared-numpy-stamp"


def run(command, attempts=1):
    """Run quietly; output is shown when it fails for the last time."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k != "__PYVENV_LAUNCHER__"}
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    env["PIP_ROOT_USER_ACTION"] = "ignore"
    for attempt in range(attempts):
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode == 0:
            return
        if attempt + 1 < attempts:
            time.sleep(PAUSE_S * (attempt + 1))
    raise SystemExit("{}\nfailed with status {}:\n{}".format(
        " ".join(command), done.returncode, done.stdout.decode("utf-8", "replace")))


def describe(python):
    """Version and place of the interpreter behind ``python``, as it says itself."""
    code = "import sys; print(sys.version.split()[0], getattr(sys, 'base_prefix', sys.prefix))"
    try:
        return subprocess.check_output([python, "-I", "-c", code], stderr=subprocess.DEVNULL).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def python_of(folder):
    """The executable of an environment."""
    return os.path.join(folder, "bin", "python")


def ensure(folder, python, requirement_files, bare_requirement_files=()):
    """Bring the environment ``folder`` into the wanted state; true when something had to be done.

    What the ``bare_requirement_files`` name is installed without what it depends on.
    """
    folder = os.path.abspath(folder)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    identity = describe(python)
    if not identity:
        raise SystemExit("{} does not run".format(python))
    digest = hashlib.sha256(identity.encode())
    for name in list(requirement_files) + list(bare_requirement_files):
        with open(name, "rb") as stream:
            digest.update(stream.read())
    wanted = digest.hexdigest()
    stamp = os.path.join(folder, STAMP)
    with open(folder + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        here = describe(python_of(folder)) if os.path.exists(python_of(folder)) else ""
        if here == identity and os.path.exists(stamp):
            with open(stamp) as stream:
                if stream.read() == wanted:
                    return False
        if here != identity:
            shutil.rmtree(folder, ignore_errors=True)
            run([python, "-m", "venv", folder])
        run([python_of(folder), "-m", "pip", "install", "-q", "-U", "pip"], ATTEMPTS)
        for names, options in ((requirement_files, []), (bare_requirement_files, ["--no-deps"])):
            arguments = [part for name in names for part in ("-r", os.path.abspath(name))]
            if arguments:
                run([python_of(folder), "-m", "pip", "install", "-q"] + options + arguments, ATTEMPTS)
        with open(stamp, "w") as stream:
            stream.write(wanted)
    return True


def install_wheel(folder, wheel):
    """Put the wheel at this path into the environment unless these very bytes are already there."""
    with open(wheel, "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    stamp = os.path.join(folder, STAMP + "-wheel")
    with open(os.path.abspath(folder) + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(stamp):
            with open(stamp) as stream:
                if stream.read() == digest:
                    return False
            os.remove(stamp)
        # --no-deps: the wheel has none, and this needs no network.
        run([python_of(folder), "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", "--no-index", wheel])
        with open(stamp, "w") as stream:
            stream.write(digest)
    return True


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description="Make a virtual environment, once.")
    parser.add_argument("folder")
    parser.add_argument("--python", required=True, help="the interpreter it is made of")
    parser.add_argument("-r", dest="requirements", action="append", default=[], help="a requirements file")
    parser.add_argument("--no-deps", dest="bare", action="append", default=[],
                        help="a requirements file whose packages are installed without what they depend on")
    parser.add_argument("--wheel", help="install this wheel as well")
    options = parser.parse_args()
    began = time.time()
    changed = ensure(options.folder, options.python, options.requirements, options.bare)
    if options.wheel:
        changed = install_wheel(options.folder, options.wheel) or changed
    if changed:
        print("{}: {} ({:.0f} s)".format(options.folder, describe(options.python), time.time() - began))


if __name__ == "__main__":
    main()
