#!/usr/bin/env bash
# Makes .venv-lm-eval and .venv-nanogcg: the programs that tests compare with, in environments of their own, since they
# want other versions of what .venv has. What they lack, PyTorch for one, is .venv's.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1

make_environment() { # NAME PACKAGE...
    local folder=.venv-$1 site shared
    shift
    [ ! -f "$folder/ready" ] || return 0
    rm -rf "$folder"
    .venv/bin/python -m venv "$folder"
    site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    shared=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "import site; site.addsitedir('$shared')" >"$site/shared.pth" # after the environment's own packages
    "$folder/bin/python" -m pip install --quiet "$@"
    touch "$folder/ready"
}

make_environment lm-eval 'lm-eval[ifeval]' datasets
make_environment nanogcg 'nanogcg==0.3.0' 'transformers==4.47.1'
