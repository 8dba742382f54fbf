#!/usr/bin/env bash
# The common part of sft.sh and finetune.sh, which set PRESET, EPOCHS, LR and BATCH and source this. The same command
# starts one node, each node of many, and resumes a job that was stopped.
#
#   DATA='out/chat_sft' CHECKPOINT=out/run/checkpoints OUT=out/sft examples/sft.sh [--dry-run | --print-command] [any flag]
#
# DATA             shards of srp sft: prefixes, or how often an epoch uses each and prefixes in turn
# VALID            shards to evaluate on, the same way
# CHECKPOINT       the model to start from: the --save folder of a run, or srp import's output
# PRESET           the model's size (1p7b); debug runs on a CPU
# EPOCHS, LR, BATCH    BATCH counts sequences, into each of which several conversations are packed
# PRECISION        bf16 (default), fp8-delayed, fp8-tensorwise or fp8-blockwise
# OUT, GPUS_PER_NODE, NNODES and more: job_common.sh
export EXAMPLE_DATA=out/chat_sft
PRECISION=${PRECISION:-bf16}
# shellcheck source=examples/job_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/job_common.sh" "$@"

start=()
if [ -n "${CHECKPOINT:-}" ]; then
    start=(--pretrained-checkpoint "$CHECKPOINT")
elif [ "$mode" = run ]; then
    fail "CHECKPOINT is not set: pass the model to start from, the --save folder of a run or srp import's output"
fi
data=(--train-iters 100 "${mock_data[@]}")
if [ "${#shards[@]}" -gt 0 ]; then
    data=(--srp-sft "${shards[@]}")
    case " ${extra[*]} " in
        *" --train-iters "* | *" --train-samples "*) ;; # the command line sets the length
        *) data+=(--srp-sft-epochs "$EPOCHS") ;;
    esac
fi
if [ -n "${VALID:-}" ]; then
    read -r -a held_out <<<"$VALID"
    data+=(--srp-sft-valid "${held_out[@]}" --eval-interval 100)
fi
if [ "$PRESET" = debug ]; then
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # a model too small for more
    cluster=(--num-workers 0)
fi

# From --pretrained-checkpoint: the weights, with a fresh optimizer and schedule, where --load has no checkpoint yet.
launch --srp-preset "$PRESET" "${cluster[@]}" --lr "$LR" --global-batch-size "$BATCH" \
    "${data[@]}" "${start[@]}" --load "$out/checkpoints" --save "$out/checkpoints" --save-interval 200 \
    "${logs[@]}"
