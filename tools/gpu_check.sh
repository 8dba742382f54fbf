#!/usr/bin/env bash
# Every figure that needs a GPU, on one bare machine with a Hopper GPU, in the order of their value.
#
#   tools/gpu_check.sh --wheels FOLDER --out FOLDER --minutes N [--cases NAMES] [--plan NAME] [more: --help]
#
# Needs Python 3.12 or newer with PyTorch, and no network. What else is missing is installed from the wheels in
# FOLDER, into a temporary folder. Minutes count from now. PYTHON names another interpreter than python3.
set -euo pipefail
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null || {
    echo "error: $python is not Python 3.12 or newer; set PYTHON to one that has PyTorch" >&2
    exit 2
}
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m megatron_srp.benchmarks.gpu.start "$@"
