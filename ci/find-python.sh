#!/bin/sh
# Print a Python >= 3.6 that can run the scripts in ci/ (they use nothing but the standard library); `$PYTHON` if it is one.
#
# Each candidate is run: a pyenv shim may exist for a version that is not selected. Which CPythons the wheel is
# tested with is another question, answered by ci/interpreters.py.
for candidate in "$PYTHON" python3 python \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 \
    "${XDG_DATA_HOME:-$HOME/.local/share}"/uv/python/cpython-3.*/bin/python3 \
    /usr/bin/python3 /usr/local/bin/python3; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1; then
        command -v "$candidate"
        exit 0
    fi
done
echo "no Python 3.6 or newer was found: install a CPython, or name one with PYTHON=/path/to/python" >&2
exit 1
