#!/bin/sh
# Run the examples in the environment that `make demo` made: the oldest CPython found, with the wheel, NumPy and photographs.
# The working directory is not the repository's, so that the installed package runs.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$root/build/demo"
cd "$root/build/demo"
for example in timing_comparison camera photos; do
    printf '\n== %s ==\n' "examples/$example.py"
    "$root/.venvs/demo/bin/python" "$root/examples/$example.py"
done
