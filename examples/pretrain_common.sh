#!/usr/bin/env bash
# The common part of pretrain_135m.sh, pretrain_360m.sh, pretrain_1p7b.sh and pretrain_8b.sh, which set PRESET and
# PRECISION and source this. The same command starts one node, each node of many, and resumes a job that was stopped.
#
#   DATA='out/corpus_text_document' OUT=out/run examples/pretrain_1p7b.sh [--dry-run | --print-command] [any flag]
#
# DATA             shard prefixes, or weights and prefixes in turn, as for --data-path
# PRECISION        bf16, fp8-delayed, fp8-tensorwise or fp8-blockwise
# OUT, GPUS_PER_NODE, NNODES and more: job_common.sh
export EXAMPLE_DATA=out/corpus_text_document
# shellcheck source=examples/job_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/job_common.sh" "$@"

data=("${mock_data[@]}")
[ "${#shards[@]}" -eq 0 ] || data=(--data-path "${shards[@]}")

# --load and --save: resume from the latest complete checkpoint, the position in the data with it.
launch --srp-preset "$PRESET" "${cluster[@]}" \
    "${data[@]}" --split "998,1,1" --data-cache-path "$out/cache" \
    --load "$out/checkpoints" --save "$out/checkpoints" --save-interval 1000 --save-retain-interval 10000 \
    --eval-interval 1000 --eval-iters 20 \
    "${logs[@]}"
