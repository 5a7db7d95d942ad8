#!/bin/sh
# fuzz.sh [TARGET...]: build the fuzz targets (fuzz/fuzz_targets/*.rs) and run each of them, or those named, for FUZZ_S seconds
# (30) under AddressSanitizer and libFuzzer; the figures come last.
#
# What this file guarantees: the stable toolchain, a C++ compiler (libFuzzer is C++) and cargo are enough; no target runs longer
# than its time; a finding is exit status 1, with the input that leads to it and the command that shows it again. What was
# learned stays in target/fuzz/corpus, and the next run begins there. Nothing stays in /dev/shm.
set -eu
cd "$(dirname "$0")/.."
seconds=${FUZZ_S:-30}
root=${CARGO_TARGET_DIR:-target}/fuzz
case $root in /*) ;; *) root=$PWD/$root ;; esac
command -v "${CXX:-c++}" >/dev/null || { echo "fuzzing needs a C++ compiler: libFuzzer is built from its sources" >&2; exit 1; }

# Sanitizers and coverage are flags that stable knows and keeps for itself. These are cargo-fuzz's: counters and comparisons.
export RUSTC_BOOTSTRAP=1
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module"
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    RUSTFLAGS="$RUSTFLAGS -Cllvm-args=-sanitizer-coverage-$flag"
done
export RUSTFLAGS
cargo build -q --locked --release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir "$root"
unset RUSTFLAGS

if [ $# -eq 0 ]; then
    for source in fuzz/fuzz_targets/*.rs; do set -- "$@" "$(basename "$source" .rs)"; done
fi

# Leaks are looked for once, at the end: a look takes longer than a run.
pid=
clean() { [ -z "$pid" ] || { kill "$pid" 2>/dev/null || true; rm -f "/dev/shm/snp_fuzz_$pid"; }; }
trap clean EXIT
trap 'exit 130' INT TERM

# One figure of a log: the last number behind a word.
figure() { sed -n "s/.*$1:* *\([0-9]*\).*/\1/p" "$log" | tail -1; }
status=0
table=$(printf '%-16s %8s %10s %8s %6s %9s %7s  %s' target seconds runs runs/s edges features inputs findings)
for target; do
    corpus=$root/corpus/$target artifacts=$root/artifacts/$target log=$root/$target.log
    mkdir -p "$corpus" "$artifacts"
    "$root/$host/release/$target" "$corpus" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -detect_leaks=0 -max_len=300 -len_control=0 -print_final_stats=1 -artifact_prefix="$artifacts/" >"$log" 2>&1 </dev/null &
    pid=$!
    code=0
    wait "$pid" || code=$?
    clean
    pid=
    found=none
    if [ "$code" -ne 0 ]; then
        status=1 found=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
        grep -v '^#[0-9]' "$log" | grep -v '^stat::' | tail -40
        found=${found:-"status $code, see $log"}
        echo "again: $root/$host/release/$target $found"
    fi
    table="$table
$(printf '%-16s %8s %10s %8s %6s %9s %7s  %s' "$target" "$(figure 'Done [0-9]* runs in')" "$(figure stat::number_of_executed_units)" \
    "$(figure stat::average_exec_per_sec)" "$(figure cov)" "$(figure ft)" "$(figure corp)" "$found")"
done
echo "$table"
exit "$status"
