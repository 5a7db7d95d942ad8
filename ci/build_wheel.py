#!/usr/bin/env python3
"""Build the manylinux2014 wheel into ``dist/``; runs in the build environment (``make wheel``).

What this file guarantees:

* afterwards ``dist/`` holds exactly one wheel, tagged ``cp36-abi3`` and ``manylinux2014`` (also by its newer name,
  ``manylinux_2_17``); a failed build leaves the wheel that was there. ``ci/check_wheel.py`` says whether it is fit to publish;
* nothing of an earlier build gets in (setuptools' ``build/lib`` is removed first);
* packed as tightly as deflate allows (zopfli: some 4 % below what ``zipfile`` does, which keeps it under its limit);
* linked for glibc 2.17 on any machine, with no C compiler or binutils: zig from PyPI is the linker;
* no path of the machine that built it is in the binaries.
"""
import os
import platform
import re
import shutil
import subprocess
import sys
import unittest.mock
import zipfile

import zopfli.zlib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DIST = os.path.join(ROOT, "dist")
BUILD = os.path.join(ROOT, "build")


def environment():
    """The environment of the build: linker, cargo's target directory, paths taken out of the binaries."""
    arch = platform.machine()
    triple = arch + "-unknown-linux-gnu"
    home = os.path.expanduser("~")
    cargo_home = os.environ.get("CARGO_HOME") or os.path.join(home, ".cargo")
    sysroot = subprocess.check_output(["rustc", "--print", "sysroot"]).decode().strip()
    remap = [(home, "/home"), (cargo_home, "/cargo"), (sysroot, "/rust"), (ROOT, "/shared_numpy")]
    env = dict(os.environ)
    env.update({
        "PYO3_NO_PYTHON": "1",
        "CARGO_BUILD_TARGET": triple,
        "CARGO_TARGET_DIR": os.path.join(BUILD, "cargo-wheel"),
        "CARGO_TARGET_{}_LINKER".format(triple.upper().replace("-", "_")): os.path.join(ROOT, "ci", "zig-cc"),
        # The last mapping that fits wins, so the most special one comes last.
        "RUSTFLAGS": " ".join("--remap-path-prefix={}={}".format(*pair) for pair in remap),
        # A cache of our own: two builds at once must not share a half-written one.
        "ZIG_GLOBAL_CACHE_DIR": os.path.join(BUILD, "zig-cache"),
        "ZIG_LOCAL_CACHE_DIR": os.path.join(BUILD, "zig-cache"),
    })
    return env


def only_file(folder, pattern):
    """The one file in ``folder`` whose name matches; anything else is an error."""
    names = [name for name in os.listdir(folder) if re.match(pattern, name)]
    if len(names) != 1:
        raise SystemExit("expected one {} in {}, found {}".format(pattern, folder, names))
    return os.path.join(folder, names[0])


class Zopfli:
    """What ``zipfile`` compresses one file with: like ``zlib.compressobj``, all at the end."""

    def __init__(self, *_how):
        self._parts = []

    def compress(self, data):
        """Nothing yet."""
        self._parts.append(data)
        return b""

    def flush(self):
        """All of it: zlib's form without the two bytes before and the four behind, which are not in a zip file."""
        return zopfli.zlib.compress(b"".join(self._parts), numiterations=5)[2:-4]


def repack(wheel):
    """Compress each file of the wheel anew; names, order, times, permissions and contents stay."""
    packed = wheel + ".packed"
    # No public way leads in there; that it worked is looked at below, and its worth by ci/check_wheel.py.
    with unittest.mock.patch.object(zipfile, "_get_compressor", Zopfli), \
            zipfile.ZipFile(wheel) as old, zipfile.ZipFile(packed, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, old.read(entry))
    with zipfile.ZipFile(packed) as new:
        broken = new.testzip()
        if broken:
            raise SystemExit("{} does not unpack to what was packed".format(broken))
    os.replace(packed, wheel)


def main():
    """Build, tag, check, publish into ``dist/``."""
    fresh = os.path.join(BUILD, "wheelhouse")
    stale = [fresh, os.path.join(ROOT, "python", "shared_numpy.egg-info"), os.path.join(BUILD, "lib")]
    stale += [os.path.join(BUILD, name) for name in os.listdir(BUILD) if name.startswith(("lib.", "bdist.", "temp."))] \
        if os.path.isdir(BUILD) else []
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)
    subprocess.check_call(
        [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-cache-dir", "-q",
         "-w", fresh, ROOT], env=environment(), stdin=subprocess.DEVNULL)
    arch = platform.machine()
    # setuptools would turn the dot of the compressed tag set into an underscore: retag instead of --plat-name.
    subprocess.check_call(
        [sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag",
         "manylinux_2_17_{0}.manylinux2014_{0}".format(arch), only_file(fresh, r".*\.whl$")],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wheel = only_file(fresh, r".*manylinux2014.*\.whl$")
    repack(wheel)
    os.makedirs(DIST, exist_ok=True)
    for name in os.listdir(DIST):
        if name.endswith(".whl"):
            os.remove(os.path.join(DIST, name))
    shutil.copy2(wheel, DIST)



if __name__ == "__main__":
    main()
