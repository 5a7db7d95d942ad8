#!/bin/sh
# sanitize.sh [CARGO TEST ARGUMENTS]: the tests of the core and of the trackers under AddressSanitizer and LeakSanitizer.
#
# What this file guarantees: the stable toolchain is enough; whatever a sanitizer reports, in a test or in a process that a test
# started, is exit status 1. The standard library is not rebuilt (that would take its sources): what it does to our memory
# through its own code is seen where it calls the C library.
set -eu
cd "$(dirname "$0")/.."
root=${CARGO_TARGET_DIR:-target}/sanitize
# Sanitizers are flags that stable knows and keeps for itself.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address
host=$(rustc -vV | sed -n 's/^host: //p')
[ $# -gt 0 ] || set -- -p shared-numpy-core -p shared-numpy-tracker --lib --bins --tests
exec cargo test --locked --no-fail-fast --target "$host" --target-dir "$root" "$@"
