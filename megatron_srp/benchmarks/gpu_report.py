"""What `gpu_check` measured: read from Megatron's log, compared, and written as JSON and Markdown."""

import argparse
import dataclasses
import json
import re
import statistics
from pathlib import Path
from typing import Any

from megatron_srp.files import write_text
from megatron_srp.training.checks.devices import Devices
from megatron_srp.training.flags.presets import find_preset
from megatron_srp.training.layout.flops import bf16_peak, flops_per_token
from megatron_srp.training.layout.layouts import Layout
from megatron_srp.training.layout.memory import estimate_memory

STEP = re.compile(
    r"iteration +(?P<step>\d+)/.*elapsed time per iteration \(ms\): (?P<ms>[\d.]+).*"
    r"global batch size: +(?P<batch>\d+).*lm loss: (?P<loss>[-+.\dE]+|nan|inf)"
)
MEMORY = re.compile(r"max allocated: ([\d.]+)")
WARM_UP = 0.3  # of the steps, whose times do not count
GOALS = {"bf16_mfu": 0.45, "fp8_speedup": 1.25, "data_overhead": 0.01}


@dataclasses.dataclass
class CaseResult:
    """One case: what it measured, or why not."""

    name: str
    precision: str
    data: str
    status: str  # ok, failed, timeout or skipped
    reason: str = ""
    step_ms: float | None = None  # median after the warm-up
    step_ms_range: tuple[float, float] | None = None  # quartiles
    batch: int | None = None  # sequences
    max_allocated_gib: float | None = None
    losses: list[float] = dataclasses.field(default_factory=list)

    def summary(self) -> str:
        if self.status == "ok":
            return f"{self.step_ms:.1f} ms a step, last loss {self.losses[-1]:.4f}"
        return f"{self.status}: {self.reason}"


def read_log(name: str, precision: str, data: str, log: str, code: int | None, steps: int) -> CaseResult:
    """The result of a run from its log.

    Args:
        code: exit code; None if it was stopped at its limit. What it logged until then counts.
    """
    found = list(STEP.finditer(log))
    times = [float(match["ms"]) for match in found][int(WARM_UP * steps) :]
    result = CaseResult(name, precision, data, "ok" if code == 0 and len(found) == steps else "failed")
    result.losses = [float(match["loss"]) for match in found]
    if len(times) >= 2:
        quartiles = statistics.quantiles(times, n=4)
        result.step_ms, result.step_ms_range = statistics.median(times), (quartiles[0], quartiles[2])
        result.batch = int(found[-1]["batch"])
    if memory := MEMORY.findall(log):
        result.max_allocated_gib = float(memory[-1]) / 1024
    if code is None:
        result.status, result.reason = "timeout", f"stopped at its limit after {len(found)} of {steps} steps"
    elif result.status == "failed":
        errors = [line for line in log.splitlines() if "error" in line.lower()]
        result.reason = errors[-1].strip()[:200] if errors else f"exit code {code}, see its log"
    return result


def throughput(result: CaseResult, options: argparse.Namespace, peak: float | None) -> dict[str, float]:
    """Tokens per second, TFLOP/s and MFU of a case; empty where it has no step time."""
    if result.step_ms is None or result.batch is None:
        return {}
    preset = find_preset(options.preset)
    preset = dataclasses.replace(preset, num_layers=options.layers or preset.num_layers)
    tokens = result.batch * preset.recipe.seq_length / (result.step_ms / 1000)
    flops = tokens * flops_per_token(preset)
    figures = {"tokens_per_s": tokens, "tflops": flops / 1e12}
    return figures | ({"mfu": flops / peak} if peak else {})


def compare(results: list[CaseResult], options: argparse.Namespace, peak: float | None) -> dict[str, float]:
    """What the goals are about, as far as it was measured."""
    by_name = {result.name: result for result in results if result.status == "ok"}
    found: dict[str, float] = {}
    base = by_name.get("bf16")
    if base is None or base.step_ms is None:
        return found
    if mfu := throughput(base, options, peak).get("mfu"):
        found["bf16_mfu"] = mfu
    speedups = {}
    for name, result in by_name.items():
        if name.startswith("fp8-") and result.step_ms:
            speedups[name] = found[f"speedup {name}"] = base.step_ms / result.step_ms
            found[f"loss_difference {name}"] = loss_difference(result.losses, base.losses)
    if speedups:
        found["fp8_speedup"] = max(speedups.values())
    plain = by_name.get("bf16, plain shards")
    if plain is not None and plain.step_ms:
        found["data_overhead"] = base.step_ms / plain.step_ms - 1
        view = by_name.get("bf16, sidecar view")
        if view is not None and view.step_ms:
            found["view_overhead"] = view.step_ms / plain.step_ms - 1
    return found


def loss_difference(ours: list[float], theirs: list[float]) -> float:
    """Mean absolute difference over the last fifth of the steps, in nats."""
    last = max(1, len(ours) // 5)
    return statistics.fmean(abs(a - b) for a, b in zip(ours[-last:], theirs[-last:], strict=True))


def goals(found: dict[str, float]) -> list[tuple[str, str, str]]:
    """Each goal, what was measured, and whether it was met."""
    rows = [
        ("bf16 MFU at least 45%", "bf16_mfu", lambda value: value >= GOALS["bf16_mfu"], "{:.1%}"),
        ("FP8 at least 1.25x bf16", "fp8_speedup", lambda value: value >= GOALS["fp8_speedup"], "{:.2f}x"),
        ("reflected within 1% of plain", "data_overhead", lambda value: value < GOALS["data_overhead"], "{:+.1%}"),
        ("sidecar view within 1% of plain", "view_overhead", lambda value: value < GOALS["data_overhead"], "{:+.1%}"),
    ]
    return [
        (goal, form.format(found[key]), "met" if met(found[key]) else "missed")
        if key in found
        else (goal, "-", "not measured")
        for goal, key, met, form in rows
    ]


def markdown(results: list[CaseResult], options: argparse.Namespace, devices: Devices) -> str:
    """A table of the cases and one of the goals."""
    peak = bf16_peak(devices.name)
    layers = options.layers or find_preset(options.preset).num_layers
    title = f"{options.preset}, {layers} layers, micro-batch {options.micro_batch} x {options.accumulate}, "
    title += f"{options.steps} steps, on {devices.name or 'the CPU: a rehearsal, its figures mean nothing'}, "
    title += f"{'with' if options.transformer_engine else 'without'} Transformer Engine"
    lines = [title, "", "| case | step ms (quartiles) | tokens/s | TFLOP/s | MFU | GiB allocated | last loss |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for result in results:
        lines.append(_row(result, throughput(result, options, peak)))
    found = compare(results, options, peak)
    for name, value in found.items():
        if name.startswith(("speedup", "loss_difference")):
            unit = "x bf16" if name.startswith("speedup") else "nats from bf16, mean of the last fifth"
            lines += ["", f"{name.replace('_', ' ')}: {value:.3f} {unit}"]
    if devices.count:
        lines += ["", "| goal | measured | |", "|---|---|---|"]
        lines += [f"| {goal} | {value} | {verdict} |" for goal, value, verdict in goals(found)]
        memory = estimate_memory(find_preset(options.preset), Layout(gpus=1, micro_batch=options.micro_batch))
        lines += ["", f"Estimate of the memory for bf16 with all layers: {memory}"]
    return "\n".join(lines) + "\n"


def _row(result: CaseResult, figures: dict[str, float]) -> str:
    if result.step_ms is None or result.step_ms_range is None:
        return f"| {result.name} | {result.status}: {result.reason} | | | | | |"
    low, high = result.step_ms_range
    mfu = f"{figures['mfu']:.1%}" if "mfu" in figures else "-"
    memory = f"{result.max_allocated_gib:.1f}" if result.max_allocated_gib else "-"
    note = "" if result.status == "ok" else f" ({result.status}: {result.reason})"
    return (
        f"| {result.name}{note} | {result.step_ms:.1f} ({low:.1f} to {high:.1f}) | {figures['tokens_per_s']:,.0f} | "
        f"{figures['tflops']:.1f} | {mfu} | {memory} | {result.losses[-1]:.4f} |"
    )


def write_results(out: Path, results: list[CaseResult], options: argparse.Namespace, devices: Devices) -> None:
    """Write `gpu_check.json` and `gpu_check.md`."""
    peak = bf16_peak(devices.name)
    content: dict[str, Any] = {
        "device": dataclasses.asdict(devices),
        "options": {name: str(value) for name, value in vars(options).items()},
        "cases": [dataclasses.asdict(result) | throughput(result, options, peak) for result in results],
        "comparison": compare(results, options, peak),
    }
    write_text(out / "gpu_check.json", json.dumps(content, indent=2) + "\n")
    write_text(out / "gpu_check.md", markdown(results, options, devices))
