#!/usr/bin/env bash
# Write reflections into a corpus, then train a tiny model for 100 steps on two processes: a real job, scaled down.
# usage: examples/prepare_and_train.sh TOKENIZER_FOLDER OUTPUT_PREFIX FILE...
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '3s/^# //p' "$0" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck disable=SC1091
source "$root/.venv/bin/activate"
tokenizer=$1 output=$2
shift 2

srp preprocess --input "$@" --tokenizer-type HuggingFaceTokenizer \
    --tokenizer-model "$tokenizer" --guard small --append-eod --output-prefix "$output"
srp train --nproc-per-node 2 --srp-preset debug \
    --tensor-model-parallel-size 2 --data-path "${output}_text_document" \
    --save "$output-checkpoints" --tensorboard-dir "$output-tensorboard"
