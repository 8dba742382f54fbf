#!/usr/bin/env bash
# Makes .venv with this package and its development tools, in the versions of constraints.txt. Uses uv where it is
# found, else venv and pip.   [PYTHON=python3.13] tools/setup_venv.sh [EXTRA]   (default: dev)
set -euo pipefail
cd "$(dirname "$0")/.."
wanted=".[${1:-dev}]"

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.13 python3.14 python3 python "$HOME"/.pyenv/versions/*/bin/python; do
        if command -v "$candidate" >/dev/null 2>&1 && fits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
}

python=$(find_python)
if [ -z "$python" ] && ! command -v uv >/dev/null; then
    echo "error: no Python 3.12 or newer found; install one (e.g. 'apt install python3.12-venv') or uv ('pip install uv')" >&2
    exit 2
fi
if ! command -v cc >/dev/null && ! command -v gcc >/dev/null; then
    echo "error: no C compiler found, and the package compiles C extensions; install one (e.g. 'apt install gcc')" >&2
    exit 2
fi

if command -v uv >/dev/null; then
    echo "making .venv with uv; the first time it downloads about 5 GB, including PyTorch's CUDA libraries"
    [ -x .venv/bin/python ] || uv venv --quiet --python "${python:-3.12}" .venv
    uv pip install --quiet --python .venv/bin/python --constraints constraints.txt -e "$wanted"
else
    echo "making .venv with pip; the first time it downloads about 5 GB, including PyTorch's CUDA libraries"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt -e "$wanted"
fi
