#!/usr/bin/env bash
# The common part of all training scripts, which source this with their arguments: the Python to use, the GPUs and
# nodes, and `launch`, which starts the trainer. PRESET is set before.
#
# OUT              folder for checkpoints, logs and the cache of sample indices, on storage that all nodes share
# GPUS_PER_NODE    default: those nvidia-smi lists, else 8; 1 with PRESET=debug
# NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT    several nodes; under Slurm see slurm/pretrain.sbatch
# WANDB_PROJECT    log to Weights & Biases too
# EXIT_MINUTES     save and stop after this time, before the scheduler does
#
# At SIGTERM (scancel, preemption) the job saves and stops as well, in the 30 s that its ranks get.
#
# --dry-run checks all flags with Megatron's own parser, needs no GPU and starts nothing; --print-command only prints.
# shellcheck disable=SC2034  # mock_data and cluster are used by the scripts that source this
set -euo pipefail

fail() {
    echo "error: $1" >&2
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python3
if [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
elif [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$root/.venv/bin/python" ]; then
    python=$root/.venv/bin/python
fi

mode=run
extra=()
for argument in "$@"; do
    case $argument in
        --dry-run) mode=dry-run ;;
        --print-command) mode=print ;;
        *) extra+=("$argument") ;;
    esac
done

gpus_here=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
if [ "$gpus_here" -eq 0 ]; then
    gpus_here=8
    [ "$PRESET" != debug ] || gpus_here=1
fi
gpus_per_node=${GPUS_PER_NODE:-$gpus_here}
nnodes=${NNODES:-${SLURM_NNODES:-1}}
node_rank=${NODE_RANK:-${SLURM_NODEID:-0}}
for count in "GPUS_PER_NODE=$gpus_per_node" "NNODES=$nnodes"; do
    [[ ${count#*=} =~ ^[1-9][0-9]*$ ]] || fail "$count: must be a whole number of at least 1"
done
if ! [[ $node_rank =~ ^[0-9]+$ && $node_rank -lt $nnodes ]]; then
    fail "NODE_RANK=$node_rank: 0 to $((nnodes - 1)) with NNODES=$nnodes"
fi

out=${OUT:-out/$PRESET}
read -r -a shards <<<"${DATA:-}"
if [ "${#shards[@]}" -eq 0 ] && [ "$mode" = run ]; then
    fail "DATA is not set: pass the prefixes of the shards, e.g. DATA='$EXAMPLE_DATA' $0"
fi
mock_data=(--mock-data --tokenizer-type NullTokenizer --vocab-size 49152)
if [ "${#shards[@]}" -eq 0 ]; then
    echo "note: DATA is not set: checked with Megatron's mock data instead of shards" >&2
fi

logs=(
    --log-interval 10 --log-throughput --log-progress
    --tensorboard-dir "$out/tensorboard" --log-timers-to-tensorboard
    --no-one-logger
)
if [ -n "${WANDB_PROJECT:-}" ]; then
    logs+=(--wandb-project "$WANDB_PROJECT" --wandb-exp-name "${WANDB_NAME:-$PRESET-$PRECISION}" --wandb-save-dir "$out")
fi
if [ -n "${EXIT_MINUTES:-}" ]; then
    logs+=(--exit-duration-in-mins "$EXIT_MINUTES")
fi
# On a cluster: parallel sizes for this many GPUs; optimizer states sharded over the data-parallel ranks, communication
# hidden behind computation; saving does not stop the training; every rank collects garbage in the same step.
cluster=(
    --srp-precision "$PRECISION" --srp-layout auto --num-workers 4
    --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather
    --async-save --use-persistent-ckpt-worker --async-strategy mcore
    --exit-signal-handler --distributed-timeout-minutes 30
    --manual-gc --manual-gc-interval 100
)

launch() {
    local command=("$python" -m megatron_srp train --nproc-per-node "$gpus_per_node")
    if [ "$nnodes" -gt 1 ]; then
        command+=(--nnodes "$nnodes" --node-rank "$node_rank")
        command+=(--master-addr "${MASTER_ADDR:-}" --master-port "${MASTER_PORT:-29500}")
    fi

    if compgen -G "$root/megatron_srp/corpus/_text*.so" >/dev/null; then # this copy is built; else the installed one
        export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    fi
    case $mode in
        print)
            printf '%q ' "${command[@]}" "$@" "${extra[@]}"
            echo
            ;;
        dry-run)
            echo "${command[*]} [the flags below]"
            exec "$python" -m megatron_srp train "$@" "${extra[@]}" \
                --srp-dry-run $((nnodes * gpus_per_node))
            ;;
        run)
            [ "$nnodes" -eq 1 ] || [ -n "${MASTER_ADDR:-}" ] || fail "MASTER_ADDR is not set: the host name of node 0"
            if [ "$PRESET" != debug ]; then # debug runs anywhere
                "$python" -m megatron_srp check environment --precision "$PRECISION" --gpus "$gpus_per_node" --brief
            fi
            mkdir -p "$out"
            if [ "$nnodes" -gt 1 ]; then
                "$python" -m megatron_srp check cluster --nproc-per-node "$gpus_per_node" --nnodes "$nnodes" \
                    --node-rank "$node_rank" --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" \
                    --out "$out" --preset "$PRESET"
            fi
            exec "${command[@]}" "$@" "${extra[@]}"
            ;;
    esac
}
