#!/usr/bin/env bash
# What pretrain_135m.sh, pretrain_360m.sh, pretrain_1p7b.sh and pretrain_8b.sh have in common: they set PRESET and
# PRECISION and source this. The same command starts one node, each node of many, and resumes a job that was stopped.
#
#   DATA='out/corpus_text_document' OUT=out/run examples/pretrain_1p7b.sh [--dry-run | --print-command] [any flag]
#
# DATA             shard prefixes, or weights and prefixes in turn, as for --data-path
# OUT              folder for checkpoints, logs and the cache of sample indices, on storage that all nodes share
# PRECISION        bf16, fp8-delayed, fp8-tensorwise or fp8-blockwise
# GPUS_PER_NODE    default: those nvidia-smi lists, else 8
# NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT    several nodes; under Slurm see slurm/pretrain.sbatch
# WANDB_PROJECT    log to Weights & Biases too
# EXIT_MINUTES     save and stop after so long, before the scheduler does
#
# --dry-run checks all flags with Megatron's own parser, needs no GPU and starts nothing; --print-command only prints.
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
[ "$gpus_here" -gt 0 ] || gpus_here=8
gpus_per_node=${GPUS_PER_NODE:-$gpus_here}
nnodes=${NNODES:-${SLURM_NNODES:-1}}
node_rank=${NODE_RANK:-${SLURM_NODEID:-0}}
out=${OUT:-out/$PRESET}
for count in "GPUS_PER_NODE=$gpus_per_node" "NNODES=$nnodes"; do
    [[ ${count#*=} =~ ^[1-9][0-9]*$ ]] || fail "$count: a whole number of 1 or more is needed"
done
if ! [[ $node_rank =~ ^[0-9]+$ && $node_rank -lt $nnodes ]]; then
    fail "NODE_RANK=$node_rank: 0 to $((nnodes - 1)) with NNODES=$nnodes"
fi

if [ -n "${DATA:-}" ]; then
    read -r -a shards <<<"$DATA"
    data=(--data-path "${shards[@]}")
elif [ "$mode" = run ]; then
    fail "DATA is not set: give the prefixes of the shards, e.g. DATA='out/corpus_text_document' $0"
else
    echo "note: DATA is not set: checked with Megatron's mock data instead of shards" >&2
    data=(--mock-data --tokenizer-type NullTokenizer --vocab-size 49152)
fi

flags=(
    # The model, its optimizer and schedule; the number format; parallel sizes for so many GPUs.
    --srp-preset "$PRESET" --srp-precision "$PRECISION" --srp-layout auto
    "${data[@]}" --split "998,1,1" --data-cache-path "$out/cache" --num-workers 4
    # Optimizer states sharded over the data-parallel ranks, communication hidden behind computation.
    --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather
    # Resume from the latest complete checkpoint, the position in the data with it. Saving does not stop the training.
    --load "$out/checkpoints" --save "$out/checkpoints" --save-interval 1000 --save-retain-interval 10000
    --async-save --use-persistent-ckpt-worker --async-strategy mcore
    --exit-signal-handler --distributed-timeout-minutes 30
    # Every rank collects garbage in the same step: one that does it alone holds up all others.
    --manual-gc --manual-gc-interval 100
    --eval-interval 1000 --eval-iters 20
    --log-interval 10 --log-throughput --log-progress
    --tensorboard-dir "$out/tensorboard" --log-timers-to-tensorboard
    --no-one-logger
)
if [ -n "${WANDB_PROJECT:-}" ]; then
    flags+=(--wandb-project "$WANDB_PROJECT" --wandb-exp-name "${WANDB_NAME:-$PRESET-$PRECISION}" --wandb-save-dir "$out")
fi
if [ -n "${EXIT_MINUTES:-}" ]; then
    flags+=(--exit-duration-in-mins "$EXIT_MINUTES")
fi
flags+=("${extra[@]}")

launch=("$python" -m torch.distributed.run --nproc-per-node "$gpus_per_node")
if [ "$nnodes" -eq 1 ]; then
    launch+=(--standalone) # takes a free port
else
    launch+=(--nnodes "$nnodes" --node-rank "$node_rank")
    launch+=(--master-addr "${MASTER_ADDR:-}" --master-port "${MASTER_PORT:-29500}")
fi
launch+=(-m megatron_srp.training.pretrain)

export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
case $mode in
    print)
        printf '%q ' "${launch[@]}" "${flags[@]}"
        echo
        ;;
    dry-run)
        echo "${launch[*]} [the flags below]"
        exec "$python" -m megatron_srp.training.pretrain "${flags[@]}" --srp-dry-run $((nnodes * gpus_per_node))
        ;;
    run)
        [ "$nnodes" -eq 1 ] || [ -n "${MASTER_ADDR:-}" ] || fail "MASTER_ADDR is not set: the host name of node 0"
        "$python" "$root/tools/check_env.py" --precision "$PRECISION" --gpus "$gpus_per_node" --brief
        mkdir -p "$out"
        exec "${launch[@]}" "${flags[@]}"
        ;;
esac
