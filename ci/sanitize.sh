#!/bin/sh
# sanitize.sh [CARGO TEST ARGUMENTS]: the tests of the core and of the trackers under AddressSanitizer and LeakSanitizer.
#
# What this file guarantees: the stable toolchain is enough; whatever a sanitizer reports, in a test or in a process that a test
# started, fails that test. The standard library is not rebuilt (that would take its sources): what it does to our memory
# is seen where it calls the C library. For the same reason there is no ThreadSanitizer here: it does not see the fences
# and locks of a library that it was not built into, and takes every second thread's end for a race. The models of
# `make loom` are about that.
set -eu
cd "$(dirname "$0")/.."
root=${CARGO_TARGET_DIR:-target}/sanitize
# Sanitizers are flags that stable knows and keeps for itself. A little optimised: what is slow under them is slow by the hour else.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_PROFILE_DEV_OPT_LEVEL=1
host=$(rustc -vV | sed -n 's/^host: //p')
# With a /dev/shm of their own where that can be had: nobody else removes names there, and nothing may be left.
alone=
sh ci/own_shm.sh --possible 2>/dev/null && alone="sh ci/own_shm.sh"
tests() { $alone cargo test --locked --no-fail-fast --target "$host" --target-dir "$root" "$@"; }
if [ $# -gt 0 ]; then
    tests "$@"
    exit
fi
status=0
tests -p shared-numpy-core --features fault --lib --tests || status=1
# Not the soak, whose letters must be read within seconds.
tests -p shared-numpy-tracker --bins --test members --test queue --test tracker || status=1
exit "$status"
