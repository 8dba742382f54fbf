#!/usr/bin/env bash
# Measures the training job on one bare machine with a Hopper GPU: bf16, each FP8 recipe, reflected against plain data.
#
#   tools/gpu_check.sh [--wheels FOLDER] [--out FOLDER] [--minutes 9] [any option of megatron_srp.benchmarks.gpu_check]
#
# Needs Python 3.12 or newer with PyTorch, and no network. What else is missing is installed from the wheels in
# FOLDER, into an environment of its own that sees the machine's PyTorch. PYTHON names another interpreter.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
wheels='' options=()
while [ $# -gt 0 ]; do
    case $1 in
        --wheels)
            wheels=${2:?"--wheels needs a folder"}
            shift 2
            ;;
        *)
            options+=("$1")
            shift
            ;;
    esac
done

if [ -n "$wheels" ]; then
    compgen -G "$wheels/*.whl" >/dev/null || {
        echo "error: no wheels in $wheels" >&2
        exit 2
    }
    environment=$(mktemp -d)/environment
    packages='import sysconfig; print(sysconfig.get_path("purelib"))'
    parent=$("$python" -c "$packages")
    # Some distributions have no pip to put into it; the parent's is seen as well.
    "$python" -m venv --system-site-packages "$environment" >/dev/null 2>&1 ||
        "$python" -m venv --system-site-packages --without-pip --clear "$environment"
    python=$environment/bin/python
    # Where PyTorch is in a virtual environment itself, the new one would not see it.
    echo "$parent" >"$("$python" -c "$packages")/parent.pth"
    # As they are, without their dependencies: nothing may replace the machine's PyTorch.
    "$python" -m pip install --quiet --no-index --no-deps "$wheels"/*.whl
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if ! "$python" -c 'import megatron_srp.corpus._text, megatron_srp.data._tokens' 2>/dev/null; then
    (cd "$root" && "$python" setup.py --quiet build_ext --inplace)
fi
unset PYTHONDONTWRITEBYTECODE # Megatron's imports would take twice as long in every case
exec "$python" -m megatron_srp.benchmarks.gpu_check "${options[@]}"
