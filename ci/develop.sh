#!/bin/sh
# Build extension and tracker (debug; `release` as the first argument) and put them into python/shared_numpy, so that
# PYTHONPATH=python runs the working tree. Each file is replaced by a rename: a process that has the old one mapped keeps it.
set -eu
cd "$(dirname "$0")/.."
profile=${1:-debug}
PYO3_NO_PYTHON=1 cargo build -q --locked -p shared-numpy-python -p shared-numpy-tracker $([ "$profile" = release ] && echo --release)
from=${CARGO_TARGET_DIR:-target}/$profile
put() {
    cp "$from/$1" "python/shared_numpy/.$2.new"
    mv -f "python/shared_numpy/.$2.new" "python/shared_numpy/$2"
}
put lib_core.so _core.abi3.so
put shared-numpy-tracker shared-numpy-tracker
