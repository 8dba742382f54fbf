"""Tensor and pipeline parallelism on a single GPU: an experiment, whose figure is the loss.

Two ranks share the GPU. NCCL refuses that within a host, so each rank says that it is on a host of its own, and they
talk through a socket. Their losses are compared with those of one rank that trains the same: TP begins with the same
weights, so that only rounding is between them; the stages of PP draw weights of their own.
"""

import socket
import sys
import time
from pathlib import Path

from megatron_srp.benchmarks.gpu.cases import Case, machine_flags, why_not
from megatron_srp.benchmarks.gpu.processes import Command, ended
from megatron_srp.benchmarks.gpu.report import STEP
from megatron_srp.benchmarks.gpu.shards import shards
from megatron_srp.benchmarks.gpu.stages import Check, Outcome, Stage
from megatron_srp.training.flags.presets import find_preset
from megatron_srp.training.layout.layouts import Layout
from megatron_srp.training.layout.memory import padded_vocab_size

STEPS, LAYERS = 5, 4
LEARNING_RATE = 1e-4  # so small that rounding grows slowly
SMALL_VOCABULARY = 512  # of a rehearsal
LEAST_S, MOST_S = 60.0, 120.0
PARALLEL = {
    "tp2": (2, ["--tensor-model-parallel-size", "2", "--sequence-parallel"]),  # tensor-parallel size, flags
    "pp2": (1, ["--pipeline-model-parallel-size", "2"]),
}
_ONE_GPU = {
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "NCCL_SOCKET_IFNAME": "lo",
    # What is faster within a host would be tried, and does not work between hosts that are none.
    **dict.fromkeys(("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE"), "1"),
    **dict.fromkeys(("NCCL_CUMEM_ENABLE", "NCCL_NVLS_ENABLE"), "0"),
}


def stage(name: str) -> Stage:
    return Stage(name, LEAST_S, MOST_S, lambda check, limit_s: run(name, check, limit_s), may_fail=True)


def run(name: str, check: Check, limit_s: float) -> Outcome:
    """One rank, unless an earlier stage has had it, and then two."""
    end = time.monotonic() + limit_s
    data = shards(check, limit_s)["reflected"]
    if len(losses(check, "one-rank")) < STEPS:
        check.run(command(check, data, 1), "one-rank.log", end - time.monotonic())
    alone = losses(check, "one-rank")
    if len(alone) < STEPS:
        return Outcome(name, "failed", f"one rank alone: {len(alone)} of {STEPS} steps, see one-rank.log")
    tensor, flags = PARALLEL[name]
    codes = check.run_together(_ranks(name, [*command(check, data, tensor), *flags]), end - time.monotonic())
    return compare(name, check, alone, codes)


def compare(name: str, check: Check, alone: list[float], codes: list[int | None]) -> Outcome:
    """The losses of two ranks, and how far they are from those of one."""
    logs = [f"{name}-{rank}" for rank in range(2)]
    together = max((losses(check, log) for log in logs), key=len)
    outcome = Outcome(name, "ok" if len(together) == STEPS else "failed", f"{len(together)} of {STEPS} steps")
    differences = [abs(a - b) for a, b in zip(alone, together, strict=False)]
    if differences:
        outcome.figures = {"last_loss": together[-1], "largest_difference_from_one_rank": max(differences)}
        outcome.figures |= {"losses": together, "losses_of_one_rank": alone}
    for log, code in zip(logs, codes, strict=True):
        status, reason = ended(code, check.read_log(f"{log}.log"))
        if status != "ok":
            outcome.status, outcome.reason = status, reason
            break
    return outcome


def losses(check: Check, log: str) -> list[float]:
    """Of each step that a log has."""
    return [float(match["loss"]) for match in STEP.finditer(check.read_log(f"{log}.log"))]


def command(check: Check, data: Path, tensor: int) -> list[str]:
    """A rank's command.

    Args:
        tensor: size of the tensor-parallel group, which the vocabulary is padded for: to the same size for any.
    """
    preset = find_preset(check.options.preset)
    vocabulary = padded_vocab_size(preset, Layout(gpus=2, tensor=2))
    vocabulary = vocabulary if check.options.device == "cuda" else SMALL_VOCABULARY
    fp8 = Case("", "fp8-tensorwise")
    flags = ["--srp-preset", preset.name, "--srp-precision", "bf16" if why_not(fp8, check) else fp8.precision]
    flags += ["--num-layers", str(LAYERS), "--micro-batch-size", "2", "--global-batch-size", "4"]
    flags += ["--lr", str(LEARNING_RATE), "--train-iters", str(STEPS), "--lr-warmup-iters", "1"]
    flags += ["--data-path", str(data), "--split", "1,0,0", "--eval-iters", "0"]
    flags += ["--make-vocab-size-divisible-by", str(vocabulary // tensor)]
    flags += ["--srp-log", "full", "--log-interval", "1", "--no-one-logger", "--distributed-timeout-minutes", "1"]
    return [sys.executable, "-m", "megatron_srp.training.pretrain", *flags, *machine_flags(check.machine)]


def _ranks(name: str, argv: list[str]) -> list[Command]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        common = _ONE_GPU | {"WORLD_SIZE": "2", "MASTER_PORT": str(probe.getsockname()[1])}
    own = [common | {"RANK": str(rank), "NCCL_HOSTID": f"srp{rank}"} for rank in range(2)]
    return [Command(argv, f"{name}-{rank}.log", own[rank]) for rank in range(2)]
