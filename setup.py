"""Build of the distribution ``shared-numpy``.

What this file guarantees:

* one extension, ``shared_numpy._core``, in the stable ABI, and beside it in the package directory
  (never in ``bin/``) the executable ``shared-numpy-tracker``;
* the tag ``cp36-abi3``: one wheel for CPython 3.6 and newer;
* the version is the one in ``Cargo.toml``, which is the only place where it is written;
* it runs with the setuptools-rust 1.1.2 and setuptools 59 that CPython 3.6 gets, as with the newest. That
  is why the metadata is here and not in ``[project]``, which those do not read.
"""
import os
import re

from setuptools import setup
from setuptools_rust import Binding, RustExtension, Strip

HERE = os.path.dirname(os.path.abspath(__file__))

# PyO3's build script must not look at the interpreter that happens to run this file: the stable ABI of 3.7
# that the workspace asks for is also what 3.6 gets, and 3.6 itself would be refused.
os.environ["PYO3_NO_PYTHON"] = "1"


def read(name):
    """The text of a file of the project; empty when there is none (an unpacked part of the tree)."""
    try:
        with open(os.path.join(HERE, name), encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def version():
    """The version in ``[workspace.package]`` of ``Cargo.toml`` (read without a TOML parser: 3.6 has none)."""
    section = re.search(r"^\[workspace\.package\]$(.*?)(?=^\[|\Z)", read("Cargo.toml"), re.M | re.S)
    found = section and re.search(r'^version\s*=\s*"([^"]+)"', section.group(1), re.M)
    if not found:
        raise RuntimeError("Cargo.toml has no version in [workspace.package]")
    return found.group(1)


setup(
    name="shared-numpy",
    version=version(),
    description="Shared memory between Python processes: multiprocessing.shared_memory for CPython 3.6 and "
    "newer, and NumPy arrays that travel by handle",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    author="The shared_numpy developers",
    license="MIT",
    url="https://github.com/shared-numpy/shared_numpy",
    keywords="shared memory multiprocessing numpy resource_tracker ipc",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: Implementation :: CPython",
        "Programming Language :: Rust",
        "Topic :: Scientific/Engineering",
        "Typing :: Typed",
    ],
    python_requires=">=3.6",
    # The drop-in `shared_memory` needs nothing but the interpreter, and it is wanted on machines that have no
    # NumPy. Arrays do need it: `pip install shared-numpy[arrays]`.
    extras_require={"arrays": ["numpy"]},
    package_dir={"": "python"},
    packages=["shared_numpy"],
    package_data={"shared_numpy": ["py.typed", "*.pyi"]},
    # Files named in MANIFEST.in are for the sdist; only package_data goes into the wheel.
    include_package_data=False,
    zip_safe=False,
    rust_extensions=[
        # NoBinding: with Binding.PyO3 setuptools-rust would ask for a cargo feature made of the wheel's tag,
        # "abi3-py36", which PyO3 no longer has. What PyO3 needs is in the workspace's Cargo.toml.
        RustExtension(
            "shared_numpy._core",
            path="crates/bindings/Cargo.toml",
            args=["--locked"],
            binding=Binding.NoBinding,
            strip=Strip.No,  # the release profile strips, so that no `strip` is needed on the machine
            debug=False,
        ),
        # Binding.Exec, not RustBin: the latter installs into the environment's bin/.
        RustExtension(
            {"shared-numpy-tracker": "shared_numpy.shared-numpy-tracker"},
            path="crates/tracker/Cargo.toml",
            # Nothing in it catches a panic, and what unwinding takes is a twentieth of it.
            args=["--locked", "--config", "profile.release.panic='abort'"],
            binding=Binding.Exec,
            strip=Strip.No,
            debug=False,
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp36"}},
)
