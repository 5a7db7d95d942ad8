# The only entry: everything that is done with this repository is a target here, and CI calls nothing else (.ci/run).
# Longer logic is in ci/, one file per subject. Needed on the machine: Rust, make, a CPython. The rest is fetched from PyPI into .venvs/.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh
export PYO3_NO_PYTHON := 1
export PYTHONDONTWRITEBYTECODE := 1
# No recursive make here; cargo would take the variable for a job server's.
unexport MAKEFLAGS

# A machine may have Rust and no C compiler: then zig, which links the wheel, links everything.
ifeq ($(shell command -v cc),)
export CARGO_TARGET_$(shell uname -m | tr a-z A-Z)_UNKNOWN_LINUX_GNU_LINKER := $(CURDIR)/ci/zig-cc
develop test lint: | build-venv
endif

# A Python that can run ci/*.py, asked for only by targets that need one.
PY = $(shell sh ci/find-python.sh)
BUILD_PYTHON := .venvs/build/bin/python
LINT_PYTHON := .venvs/lint/bin/python
# What the wheel is made of.
SOURCES := $(shell find crates python/shared_numpy -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name 'Cargo.toml') \
	Cargo.toml Cargo.lock setup.py pyproject.toml MANIFEST.in $(wildcard ci/build_wheel.py ci/check_wheel.py ci/zig-cc README.md)

##@ Everyday

help:  ## This list
	@sed -n 's/^##@ \(.*\)/\n\1:/p; s/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

develop: need-cargo  ## Debug build into python/shared_numpy, for PYTHONPATH=python (PROFILE=release for a fast one)
	@sh ci/develop.sh $(PROFILE)

test: venvs need-cargo  ## All tests: Rust, our suite and CPython's own on every CPython found (TEST="--only cp36" for a part)
	@"$(PY)" ci/matrix.py $(TEST)

lint: need-cargo lint-venv  ## Formatting, clippy, ruff, mypy, stubs against the code, and whether the shipped files are 3.6 syntax
	@"$(PY)" ci/lint.py

demo: demo-venv  ## The examples, on the oldest CPython found
	@sh ci/demo.sh

bench: venvs  ## Measurements against the standard library, on 3.11 and the newest
	@"$(PY)" ci/bench.py

loom: need-cargo  ## Every interleaving of the deciding steps of pools, locks and queues (about 40 s after the build)
	RUSTFLAGS="--cfg loom" cargo test -p shared-numpy-core --release --test loom_pool --test loom_lock --test loom_queue --target-dir target/loom

stress: need-cargo  ## Soaks with random kills: SHARED_NUMPY_SOAK_KILLS (10000) over the whole stack, SHARED_NUMPY_SOAK_S (60) seconds of the pools and of the queues alone
	SHARED_NUMPY_SOAK_S=$${SHARED_NUMPY_SOAK_S:-60} cargo test -p shared-numpy-core --release --features fault --test crash_pool --test crash_queue -- --nocapture
	SHARED_NUMPY_SOAK_KILLS=$${SHARED_NUMPY_SOAK_KILLS:-10000} SHARED_NUMPY_SOAK_S=1800 \
		cargo test -p shared-numpy-tracker --release --test soak -- --nocapture --test-threads=1

fuzz: need-cargo  ## Random bytes over all that is shared, under AddressSanitizer: FUZZ_S (30) seconds for each target (FUZZ="lock_bytes" for one)
	@sh ci/fuzz.sh $(FUZZ)

sanitize: need-cargo  ## The Rust tests of core and trackers under AddressSanitizer and LeakSanitizer
	@sh ci/sanitize.sh

##@ Packages

wheel: build/wheel.stamp check-wheel  ## dist/*.whl: the manylinux2014 wheel for CPython 3.6 and newer, checked
	@ls dist/*.whl

build/wheel.stamp: $(SOURCES) | need-cargo build-venv
	$(BUILD_PYTHON) ci/build_wheel.py && touch $@

sdist: need-cargo build-venv  ## dist/*.tar.gz: the sources, from which pip can build
	@rm -f dist/*.tar.gz && $(BUILD_PYTHON) -m build -q --sdist --no-isolation -o dist . && ls dist/*.tar.gz

check-wheel: build/wheel.stamp  ## Check the wheel in dist/: size, tags, contents, symbol versions
	@$(BUILD_PYTHON) ci/check_wheel.py dist/*.whl

##@ Environments

interpreters:  ## The CPythons found on this machine, and what was left out
	@"$(PY)" ci/interpreters.py

venvs: build/wheel.stamp  ## .venvs/cp36 ...: one environment for each CPython, with NumPy, pytest and the wheel
	@"$(PY)" ci/venvs.py

build-venv:
	@"$(PY)" ci/make_venv.py .venvs/build --python "$$("$(PY)" ci/interpreters.py --newest)" -r ci/requirements-build.txt

lint-venv:
	@"$(PY)" ci/make_venv.py .venvs/lint --python "$$("$(PY)" ci/interpreters.py --newest)" -r ci/requirements-lint.txt

demo-venv: build/wheel.stamp
	@"$(PY)" ci/make_venv.py .venvs/demo --python "$$("$(PY)" ci/interpreters.py --oldest)" \
		-r examples/requirements.txt --no-deps examples/requirements-photos.txt --wheel dist/*.whl

clean:  ## Remove everything that was built or fetched
	rm -rf build dist target .venvs .mypy_cache .ruff_cache .pytest_cache python/*.egg-info python/shared_numpy/*.so python/shared_numpy/shared-numpy-tracker

need-cargo:
	@command -v cargo >/dev/null || { echo "cargo was not found: install Rust (https://rustup.rs), or put it on PATH" >&2; exit 1; }

.PHONY: help develop test lint demo bench loom stress fuzz sanitize demo-venv wheel sdist check-wheel interpreters venvs build-venv lint-venv clean need-cargo
