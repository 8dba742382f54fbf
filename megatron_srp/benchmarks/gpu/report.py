"""What the training cases measured: read from Megatron's log, compared, and written as Markdown."""

import argparse
import dataclasses
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from megatron_srp.benchmarks.gpu.processes import ended
from megatron_srp.benchmarks.gpu.stages import Outcome
from megatron_srp.training.flags.model_preset import ModelPreset
from megatron_srp.training.flags.presets import find_preset
from megatron_srp.training.layout.flops import bf16_peak, flops_per_token
from megatron_srp.training.layout.layouts import Layout
from megatron_srp.training.layout.memory import GIB, estimate_memory

STEP = re.compile(
    r"iteration +(?P<step>\d+)/.*elapsed time per iteration \(ms\): (?P<ms>[\d.]+).*"
    r"global batch size: +(?P<batch>\d+).*lm loss: (?P<loss>[-+]?(?:NAN|INF|[\d.]+E[-+]\d+))",
    re.IGNORECASE,  # Megatron writes NAN and INF in capitals
)
MEMORY = re.compile(r"max allocated: ([\d.]+)")
WEIGHT_FUSION, LOSS_FUSION, LAYERS = "gradient_accumulation_fusion", "cross_entropy_loss_fusion", "transformer_impl"
# Of the list of its arguments with which Megatron begins.
MADE = re.compile(rf"^ +({WEIGHT_FUSION}|{LOSS_FUSION}|{LAYERS}) \.+ (\S+)", re.MULTILINE)
WARM_UP = 0.3  # of the steps, whose times do not count
ENOUGH_STEPS = 10  # that count, for a case that was cut to be compared
GOALS = {"bf16_mfu": 0.45, "fp8_speedup": 1.25, "data_overhead": 0.01}


@dataclass
class CaseResult(Outcome):
    """One training case."""

    precision: str = "bf16"
    data: str = "reflected"
    step_ms: float | None = None  # median after the warm-up
    step_ms_range: tuple[float, float] | None = None  # quartiles
    steps_timed: int = 0
    batch: int | None = None  # sequences
    max_allocated_gib: float | None = None
    losses: list[float] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)  # Megatron's arguments that decide how a step is computed

    def summary(self) -> str:
        parts = [f"{self.step_ms:.1f} ms a step"] if self.step_ms is not None else []
        parts += [f"last loss {self.losses[-1]:.4f}"] if self.losses else []
        return ": ".join(filter(None, [self.status, "; ".join(filter(None, [self.reason, *parts]))]))

    @property
    def counts(self) -> bool:
        """Whether its step time can be compared: it ended well, or was cut late enough."""
        return self.step_ms is not None and (self.status == "ok" or self.steps_timed >= ENOUGH_STEPS)

    @property
    def way(self) -> str:
        """How its steps were computed, in words."""
        layers = {"transformer_engine": "Transformer Engine", "local": "Megatron's own layers"}
        fused = [f"{(self.made.get(name) == 'True' and 'fused') or 'unfused'} {what}" for name, what in FUSED.items()]
        return ", ".join([layers.get(self.made.get(LAYERS, ""), "?"), *fused]) if self.made else "-"


FUSED = {WEIGHT_FUSION: "weight gradients", LOSS_FUSION: "loss"}


def read_log(name: str, precision: str, data: str, log: str, code: int | None, steps: int) -> CaseResult:
    """The result of a run from its log.

    Args:
        code: exit code; None if it was stopped at its limit. What it logged until then counts.
    """
    found = list(STEP.finditer(log))
    times = [float(match["ms"]) for match in found][int(WARM_UP * steps) :]
    result = CaseResult(name, *ended(code, log), precision=precision, data=data, made=dict(MADE.findall(log)))
    result.losses = [float(match["loss"]) for match in found]
    if len(times) >= 2:
        quartiles = statistics.quantiles(times, n=4)
        result.step_ms, result.step_ms_range = statistics.median(times), (quartiles[0], quartiles[2])
        result.batch, result.steps_timed = int(found[-1]["batch"]), len(times)
    if memory := MEMORY.findall(log):
        result.max_allocated_gib = float(memory[-1]) / 1024
    _judge(result, steps)
    return result


def _judge(result: CaseResult, steps: int) -> None:
    """A run that diverged, or ended early, has failed whatever its exit code."""
    not_finite = [i for i, loss in enumerate(result.losses, 1) if not math.isfinite(loss)]
    if not_finite:
        first = not_finite[0]
        result.status, result.reason = "failed", f"the loss is {result.losses[first - 1]} from step {first} on"
    elif result.status == "timeout":
        result.reason = f"stopped at its limit after {len(result.losses)} of {steps} steps"
    elif result.status == "ok" and len(result.losses) < steps:
        result.status, result.reason = "failed", f"{len(result.losses)} of {steps} steps are in its log"


def measured_preset(options: argparse.Namespace) -> ModelPreset:
    """The preset with the layers that are measured."""
    return dataclasses.replace(find_preset(options.preset), num_layers=options.layers)


def throughput(result: CaseResult, options: argparse.Namespace, peak: float | None) -> dict[str, float]:
    """Tokens per second, TFLOP/s and MFU of a case; empty where it has no step time."""
    if result.step_ms is None or result.batch is None:
        return {}
    preset = measured_preset(options)
    tokens = result.batch * preset.recipe.seq_length / (result.step_ms / 1000)
    flops = tokens * flops_per_token(preset)
    figures = {"tokens_per_s": tokens, "tflops": flops / 1e12}
    return figures | ({"mfu": flops / peak} if peak else {})


def compare(results: Sequence[CaseResult], options: argparse.Namespace, peak: float | None) -> dict[str, float]:
    """What the goals are about, as far as it was measured.

    FP8 is compared with the mean of the bf16 runs; the data with the bf16 run next to it, where there is one. How far
    the bf16 runs are from each other, `spread`, says which differences mean something.
    """
    times = {result.stage: result.step_ms for result in results if result.counts and result.step_ms}
    losses = {result.stage: result.losses for result in results if result.losses}
    bf16 = [times[name] for name in ("bf16", "bf16-again") if name in times]
    found: dict[str, float] = {}
    if not bf16:
        return found
    base = next(result for result in results if result.stage in ("bf16", "bf16-again") and result.counts)
    if mfu := throughput(base, options, peak).get("mfu"):
        found["bf16_mfu"] = mfu
    if len(bf16) == 2:
        found["spread"] = max(bf16) / min(bf16) - 1
    for name, ms in times.items():
        if name not in ("bf16", "bf16-again", "plain", "view"):
            found[f"speedup {name}"] = statistics.fmean(bf16) / ms
    found |= _loss_differences(losses, base.stage)
    if speedups := [value for name, value in found.items() if name.startswith("speedup fp8-")]:
        found["fp8_speedup"] = max(speedups)
    if plain := times.get("plain"):
        found["data_overhead"] = bf16[-1] / plain - 1
        found |= {"view_overhead": times["view"] / plain - 1} if "view" in times else {}
    return found


def _loss_differences(losses: dict[str, list[float]], base: str) -> dict[str, float]:
    """Of the runs on the same data, from the first bf16 run."""
    same = [name for name in losses if name.startswith("fp8-") or (name.startswith("bf16") and name != base)]
    return {f"loss_difference {name}": loss_difference(losses[name], losses[base]) for name in same if base in losses}


def loss_difference(ours: list[float], theirs: list[float]) -> float:
    """Mean absolute difference in nats, over the last fifth of the steps that both have."""
    steps = min(len(ours), len(theirs))
    last = slice(steps - max(1, steps // 5), steps)
    return statistics.fmean(abs(a - b) for a, b in zip(ours[last], theirs[last], strict=True))


def goals(found: dict[str, float]) -> list[tuple[str, str, str]]:
    """Each goal, what was measured, and whether it was met."""
    mfu, speedup, overhead = GOALS["bf16_mfu"], GOALS["fp8_speedup"], GOALS["data_overhead"]
    rows = [
        (f"bf16 MFU at least {mfu:.0%}", "bf16_mfu", "{:.1%}", lambda value: value >= mfu),
        (f"FP8 at least {speedup}x bf16", "fp8_speedup", "{:.2f}x", lambda value: value >= speedup),
        (f"reflected within {overhead:.0%} of plain", "data_overhead", "{:+.1%}", lambda value: value < overhead),
        (f"sidecar view within {overhead:.0%} of plain", "view_overhead", "{:+.1%}", lambda value: value < overhead),
    ]
    return [
        (goal, form.format(found[key]), _verdict(key, met(found[key]), found))
        if key in found
        else (goal, "-", "not measured")
        for goal, key, form, met in rows
    ]


def _verdict(key: str, met: bool, found: dict[str, float]) -> str:
    """A cost that is no larger than what two equal runs differ by is not decided."""
    if met or "overhead" not in key or abs(found[key]) > found.get("spread", 0.0):
        return "met" if met else "missed"
    return "not decided: two equal runs differ as much"


def markdown(results: Sequence[CaseResult], options: argparse.Namespace, device: str) -> str:
    """A table of the cases and one of the goals."""
    peak = bf16_peak(device)
    title = f"{options.preset}, {options.layers} layers, micro-batch {options.micro_batch} x {options.accumulate}, "
    title += f"{options.steps} steps of {find_preset(options.preset).recipe.seq_length}-token sequences"
    columns = "case | step ms (quartiles) | tokens/s | TFLOP/s | MFU | GiB allocated (estimate) | last loss | made with"
    lines = [title, "", f"| {columns} |", "|---" * 8 + "|"]
    lines += [_row(result, options, peak) for result in results]
    found = compare(results, options, peak)
    lines += _differences(found)
    if peak:
        lines += ["", "| goal | measured | |", "|---|---|---|"]
        lines += [f"| {goal} | {value} | {verdict} |" for goal, value, verdict in goals(found)]
    return "\n".join(lines) + "\n"


def _differences(found: dict[str, float]) -> list[str]:
    lines = []
    for name, value in found.items():
        kind, _, case = name.partition(" ")
        if kind == "speedup":
            lines += ["", f"{case}: {value:.3f} x as fast as bf16"]
        elif kind == "loss_difference":
            lines += ["", f"{case}: loss {value:.4f} nats from bf16's, mean of the last fifth of the steps"]
        elif kind == "spread":
            lines += ["", f"two equal bf16 runs: {value:.2%} apart"]
    return lines


def _row(result: CaseResult, options: argparse.Namespace, peak: float | None) -> str:
    if result.step_ms is None or result.step_ms_range is None:
        return f"| {result.stage} | {result.status}: {result.reason}" + " |" * 7
    figures = throughput(result, options, peak)
    low, high = result.step_ms_range
    mfu = f"{figures['mfu']:.1%}" if "mfu" in figures else "-"
    note = "" if result.status == "ok" else f" ({result.status}: {result.reason})"
    return (
        f"| {result.stage}{note} | {result.step_ms:.1f} ({low:.1f} to {high:.1f}) | {figures['tokens_per_s']:,.0f} | "
        f"{figures['tflops']:.1f} | {mfu} | {_memory(result, options)} | {result.losses[-1]:.4f} | {result.way} |"
    )


def _memory(result: CaseResult, options: argparse.Namespace) -> str:
    """What the allocator gave out at most, and the estimate of the same: without CUDA's own and fragmentation."""
    if not result.max_allocated_gib:
        return "-"
    layout = Layout(gpus=1, micro_batch=options.micro_batch)
    estimate = estimate_memory(measured_preset(options), layout, result.precision).allocated / GIB
    is_estimated = result.made.get(LAYERS) == "transformer_engine"
    return f"{result.max_allocated_gib:.1f}" + (f" ({estimate:.1f})" if is_estimated else "")
