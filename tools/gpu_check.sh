#!/usr/bin/env bash
# Measures the training job on one bare machine with a Hopper GPU: bf16, each FP8 recipe, reflected against plain data.
#
#   tools/gpu_check.sh [--wheels FOLDER] [--out FOLDER] [--minutes 9] [any option of megatron_srp.benchmarks.gpu_check]
#
# Needs Python 3.12 or newer with PyTorch, and no network. What else is missing is installed from the wheels in
# FOLDER, into a temporary folder beside the machine's packages. PYTHON names another interpreter.
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
    # Beside the machine's packages and not in an environment of its own: Transformer Engine looks for cuDNN and NVRTC
    # in the site-packages of the Python that runs it. Without dependencies: nothing may replace the machine's PyTorch.
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-cache-dir --target "$site" "$wheels"/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
    # Its core library is linked with NCCL and cuDNN by name; pip's are on no search path.
    libraries=$("$python" -c 'import pathlib, nvidia
print(":".join(str(lib) for path in nvidia.__path__ for lib in pathlib.Path(path).glob("*/lib")))' 2>/dev/null || true)
    export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if ! "$python" -c 'import megatron_srp.corpus._text, megatron_srp.data._tokens' 2>/dev/null; then
    (cd "$root" && "$python" setup.py --quiet build_ext --inplace)
fi
unset PYTHONDONTWRITEBYTECODE # Megatron's imports would take twice as long in every case
"$python" -m megatron_srp.benchmarks.gpu_check "${options[@]}"
