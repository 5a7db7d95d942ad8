#!/usr/bin/env python3
"""Check what a wheel of ours promises; needs pyelftools (it is in the build environment).

What this file guarantees about a wheel that passes:

* its name says ``cp36-abi3`` and manylinux2014 for this architecture, and its ``WHEEL`` file says the same;
* it is smaller than 1 MB and holds the package, ``_core.abi3.so`` and the tracker beside it (executable), type
  information, licence, and nothing else: no tests, no sources, no ``.pth``, nothing in ``bin/``;
* both ELF files are stripped, need only libraries that every manylinux2014 system has and no symbol version newer than
  GLIBC_2.17, have no executable stack and no run path, and name no directory of the machine that built them;
* the extension exports its init function, and no symbol of CPython outside the stable ABI of 3.6 is needed that
  has no place in ``LATER_SYMBOLS`` below.
"""
import io
import os
import platform
import re
import sys
import zipfile

MAX_BYTES = 1000 * 1000
MAX_GLIBC = (2, 17)
ALLOWED_LIBRARIES = re.compile(r"^(lib(c|m|dl|rt|pthread|util)\.so\.\d+|libgcc_s\.so\.1|ld-linux[\w-]*\.so\.\d+)$")
EXTENSION = "shared_numpy/_core.abi3.so"
TRACKER = "shared_numpy/shared-numpy-tracker"
PACKAGE_FILE = re.compile(r"^shared_numpy/(\w+/)*(\w+\.pyi?|py\.typed)$")
METADATA_FILE = re.compile(
    r"^shared_numpy-[\w.]+\.dist-info/(METADATA|WHEEL|RECORD|top_level\.txt|(licenses/)?LICENSE)$")
# Machine-specific directories, as they would show in a panic message.
MACHINE_PATH = re.compile(rb"/(?:home|root|Users|builds?|tmp)/[\w.][\w./-]*|/[\w./-]*\.rustup/[\w./-]*")


def check_elf(name, data):
    """Complaints about one ELF file."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    elf = ELFFile(io.BytesIO(data))
    problems = []
    sections = {section.name: section for section in elf.iter_sections()}
    if ".symtab" in sections or any(section.startswith(".debug") for section in sections):
        problems.append("is not stripped")
    for section in elf.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for library, versions in section.iter_versions():
                for version in versions:
                    found = re.match(r"^GLIBC_([\d.]+)$", version.name)
                    if found and tuple(int(part) for part in found.group(1).split(".")) > MAX_GLIBC:
                        problems.append("needs {} of {}".format(version.name, library.name))
    for tag in sections[".dynamic"].iter_tags():
        if tag.entry.d_tag == "DT_NEEDED" and not ALLOWED_LIBRARIES.match(tag.needed):
            problems.append("needs the library " + tag.needed)
        if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
            problems.append("has a run path")
    for segment in elf.iter_segments():
        if segment["p_type"] == "PT_GNU_STACK" and segment["p_flags"] & 1:
            problems.append("asks for an executable stack")
    if name == EXTENSION:
        names = {symbol.name for symbol in sections[".dynsym"].iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF"}
        if "PyInit__core" not in names:
            problems.append("does not export PyInit__core")
    for path in sorted(set(MACHINE_PATH.findall(data)))[:3]:
        problems.append("names " + path.decode())
    return ["{} {}".format(name, problem) for problem in problems]


def check_contents(archive):
    """Complaints about which files are there, and their modes."""
    problems = []
    names = archive.namelist()
    for name in names:
        if name not in (EXTENSION, TRACKER) and not PACKAGE_FILE.match(name) and not METADATA_FILE.match(name):
            problems.append("{} does not belong in a wheel".format(name))
    for name in (EXTENSION, TRACKER, "shared_numpy/__init__.py", "shared_numpy/py.typed", "shared_numpy/_core.pyi"):
        if name not in names:
            problems.append("{} is missing".format(name))
    if TRACKER in names and not (archive.getinfo(TRACKER).external_attr >> 16) & 0o100:
        problems.append("{} is not executable".format(TRACKER))
    return problems


def check_tags(wheel, archive):
    """Complaints about the file's name and the tags inside."""
    arch = platform.machine()
    found = re.match(r"^shared_numpy-([\w.]+)-cp36-abi3-([\w.]+)\.whl$", os.path.basename(wheel))
    if not found or set(found.group(2).split(".")) != {"manylinux_2_17_" + arch, "manylinux2014_" + arch}:
        return ["the name {} is not that of a cp36-abi3 wheel for manylinux2014".format(os.path.basename(wheel))]
    folder = "shared_numpy-{}.dist-info/".format(found.group(1))
    fields = archive.read(folder + "WHEEL").decode().splitlines()
    problems = []
    for platform_tag in ("manylinux_2_17_" + arch, "manylinux2014_" + arch):
        if "Tag: cp36-abi3-" + platform_tag not in fields:
            problems.append("WHEEL does not say cp36-abi3-" + platform_tag)
    if "Root-Is-Purelib: false" not in fields:
        problems.append("WHEEL says that the package is pure Python")
    metadata = archive.read(folder + "METADATA").decode().splitlines()
    for line in ("Name: shared-numpy", "Requires-Python: >=3.6", "Provides-Extra: arrays"):
        if line not in metadata:
            problems.append("METADATA does not say '{}'".format(line))
    return problems


def check(wheel):
    """Print a verdict on the wheel at this path; true when nothing is wrong."""
    size = os.path.getsize(wheel)
    problems = ["{} bytes, the limit is {}".format(size, MAX_BYTES)] if size > MAX_BYTES else []
    with zipfile.ZipFile(wheel) as archive:
        problems += check_tags(wheel, archive) + check_contents(archive)
        for name in (EXTENSION, TRACKER):
            if name in archive.namelist():
                problems += check_elf(name, archive.read(name))
    for problem in problems:
        print("wheel check: " + problem, file=sys.stderr)
    print("wheel check: {} ({} kB): {}".format(
        os.path.basename(wheel), size // 1000, "FAILED" if problems else "ok"))
    return not problems


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: check_wheel.py WHEEL...")
    sys.exit(0 if all([check(path) for path in sys.argv[1:]]) else 1)
