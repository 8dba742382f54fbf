"""The training job in bf16 and FP8, on reflected and plain data: each case is the real entry point."""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from megatron_srp.benchmarks.gpu.looks import ATTENTION, FP8
from megatron_srp.benchmarks.gpu.report import LOSS_FUSION, WEIGHT_FUSION, CaseResult, read_log
from megatron_srp.benchmarks.gpu.shards import shards
from megatron_srp.benchmarks.gpu.stages import Check, Machine, Outcome, Stage
from megatron_srp.training.checks.devices import BLOCKWISE_NEEDS, LOCAL_LAYERS
from megatron_srp.training.flags.presets import find_preset

# Megatron's unfused attention keeps every score: without this the 1.7B layers do not fit at a micro-batch of 8.
UNFUSED_ATTENTION = ("--recompute-granularity", "selective", "--recompute-modules", "core_attn")


@dataclass(frozen=True)
class Case:
    """One run of the trainer.

    Attributes:
        data: plain, reflected, or view: the plain shard with reflections put in as it is read.
        unlike: what the case leaves out that the others have, as Megatron's arguments name it.
    """

    name: str
    precision: str = "bf16"
    data: str = "reflected"
    flags: tuple[str, ...] = ()
    unlike: str = ""
    least_s: float = 45.0  # imports, CUDA's start, the first step, and ten steps that count
    most_s: float = 110.0


# The most important first. What is compared runs next to each other, on a GPU that is as warm: bf16 a second time with
# the view and the plain shards, so that the spread between two equal runs is known.
CASES = (
    Case("bf16", least_s=60, most_s=200),  # it makes the shards, and compiles
    Case("fp8-tensorwise", "fp8-tensorwise"),
    Case("bf16-again"),
    Case("view", data="view"),
    Case("plain", data="plain"),
    Case("fp8-blockwise", "fp8-blockwise"),
    Case("fp8-delayed", "fp8-delayed"),
)
LATER_CASES = (
    Case("unfused-gradients", flags=("--no-gradient-accumulation-fusion",), unlike=WEIGHT_FUSION),
    Case("unfused-loss", flags=("--no-cross-entropy-loss-fusion",), unlike=LOSS_FUSION),
    Case("no-te", flags=LOCAL_LAYERS + UNFUSED_ATTENTION, least_s=60, most_s=150),
)


def stage(case: Case) -> Stage:
    return Stage(case.name, case.least_s, case.most_s, lambda check, limit_s: train(case, check, limit_s))


def train(case: Case, check: Check, limit_s: float) -> Outcome:
    """Run a case to its end or its limit."""
    if reason := why_not(case, check):
        return Outcome(case.name, "skipped", reason)
    log = f"{case.name}.log"

    def result(code: int | None, running: bool = False) -> CaseResult:
        found = read_log(case.name, case.precision, case.data, check.read_log(log), code, check.options.steps)
        if running:
            found.status, found.reason = "running", f"{len(found.losses)} of {check.options.steps} steps"
        return found

    end = time.monotonic() + limit_s
    flags = command(case, check.options, shards(check, limit_s), check.machine)
    return result(check.run(flags, log, end - time.monotonic(), lambda: check.note(result(None, True))))


def why_not(case: Case, check: Check) -> str:
    """Why a case cannot run on this machine, or says nothing there; empty if it can."""
    machine = check.machine
    if case.precision in FP8:
        return _why_not_fp8(case.precision, machine)
    if case.name == "no-te" and (machine.no_transformer_engine or not machine.devices.count):
        return "the other cases are without it as well"
    first = check.outcome("bf16")
    if case.unlike and isinstance(first, CaseResult) and first.made.get(case.unlike) != "True":
        return "the other cases are made so as well"
    return ""


def _why_not_fp8(precision: str, machine: Machine) -> str:
    devices = machine.devices
    if not devices.has_fp8:
        return f"no FP8 on {devices.name or 'a CPU'}"
    if machine.no_transformer_engine:
        return f"no Transformer Engine: {machine.no_transformer_engine}"
    if precision == "fp8-blockwise" and not devices.has_blockwise_fp8:
        return f"needs {BLOCKWISE_NEEDS}"
    return machine.wrong.get(precision, "")


def command(case: Case, options: argparse.Namespace, data: dict[str, Path], machine: Machine) -> list[str]:
    """The entry point with all flags of a case."""
    preset = find_preset(options.preset)
    flags = ["--srp-preset", options.preset, "--srp-precision", case.precision, "--srp-log", "full"]
    flags += ["--num-layers", str(options.layers), "--micro-batch-size", str(options.micro_batch)]
    flags += ["--global-batch-size", str(options.micro_batch * options.accumulate)]
    flags += ["--train-iters", str(options.steps), "--lr-warmup-iters", str(max(1, options.steps // 5))]
    prefix = data["plain" if case.data == "view" else case.data]
    flags += ["--data-path", str(prefix), "--split", "1,0,0", "--eval-iters", "0"]
    if case.data == "view":
        flags += ["--srp-sidecar", f"{data['view']}.srp"]
    # The corpus is small and so is its vocabulary; the logits have the preset's size all the same.
    flags += ["--make-vocab-size-divisible-by", str(preset.vocab_size)] if options.device == "cuda" else []
    flags += ["--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather"]
    flags += ["--log-interval", "1", "--log-throughput", "--no-one-logger"]
    flags += [*case.flags, *machine_flags(machine)]
    return [sys.executable, "-m", "megatron_srp.training.pretrain", *flags]


def machine_flags(machine: Machine) -> list[str]:
    """What a training needs where Transformer Engine, or its attention, does not work."""
    if not machine.devices.count:
        return []
    if machine.no_transformer_engine:
        return [*LOCAL_LAYERS, *UNFUSED_ATTENTION]
    return ["--attention-backend", "unfused", *UNFUSED_ATTENTION] if ATTENTION in machine.wrong else []
