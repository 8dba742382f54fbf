"""How many content tokens a second a guard's engine judges, compared with the device's limit.

Random weights of Qwen3-0.6B's shape and random ids: speed depends on neither, except through the share of texts
that need categories, which is an option. Content tokens are those of the segments; the template's are work but
not content. It needs PyTorch and transformers, and no network, no tokenizer and no other package.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from megatron_srp.annotation.engines import Engine, Prompts, load_engine
from megatron_srp.benchmarks.guard_workload import Workload, layer_parameters, matmul_tflops, random_model

GOAL, STRETCH, PAPER = 87_000, 250_000, 8_700  # content tokens/s on one H200
GOALS = (("goal", GOAL), ("stretch", STRETCH))


@dataclass(slots=True)
class Result:
    """One engine on one workload. Rates are per second and device; `runs` are content tokens/s."""

    engine: str
    options: dict[str, Any]
    workload: dict[str, Any]
    device: str
    versions: dict[str, str]
    content_tokens: int
    parameters: int
    matmul_tflops: float
    bound: float
    bound_whole_template: float
    peak_gib: float
    runs: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.runs)


def load(engine: str, options: dict[str, Any], layers: int) -> Engine:
    """The engine, with random weights: hf gets them directly, others in a folder."""
    device, dtype = device_and_dtype(options)
    model = random_model(layers, device, dtype)
    if engine == "hf":
        return load_engine("hf", model, **options)
    with TemporaryDirectory() as folder:
        model.to("cpu").save_pretrained(folder)
        del model
        return load_engine(engine, folder, **options)


def device_and_dtype(options: dict[str, Any]) -> tuple[str, str]:
    from megatron_srp.annotation.engines.hf_loading import choose_device

    device = str(choose_device(options.get("device")))
    return device, options.get("dtype") or ("float32" if device == "cpu" else "bfloat16")


def measure(engine: str, options: dict[str, Any], workload: Workload, layers: int = 28, runs: int = 5) -> Result:
    """`runs` timed runs after one that warms up."""
    import torch

    loaded = load(engine, options, layers)
    prompts, content = workload.prompts()
    device, dtype = device_and_dtype(options)
    tflops = matmul_tflops(device, dtype)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)

    def seconds() -> float:
        begin = time.perf_counter()
        judge(loaded, prompts, workload)
        return time.perf_counter() - begin

    seconds()
    result = Result(
        engine=engine,
        options=options,
        workload=asdict(workload),
        device=device_name(device),
        versions={"python": platform.python_version()} | _versions("torch", "transformers", engine),
        content_tokens=content,
        parameters=layer_parameters(layers),
        matmul_tflops=tflops,
        bound=content / (workload.flops(layers, whole_template=False) / (tflops * 1e12)),
        bound_whole_template=content / (workload.flops(layers, whole_template=True) / (tflops * 1e12)),
        peak_gib=torch.cuda.max_memory_allocated(device) / 2**30 if device != "cpu" else 0.0,
    )
    result.runs = [content / seconds() for _ in range(runs)]
    loaded.close()
    return result


def judge(engine: Engine, prompts: Prompts, workload: Workload) -> None:
    """A guard's requests to its engine: a verdict for all, categories for some."""
    engine.next_token_logprobs(prompts, [100, 200, 300])
    some = np.arange(int(len(prompts) * workload.unsafe / 100))
    if len(some):
        engine.generate(prompts.take(some), workload.category_tokens, [])


def device_name(device: str) -> str:
    import torch

    if device == "cpu":
        return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"
    return str(torch.cuda.get_device_name(device))


def _versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def profile(engine: str, options: dict[str, Any], workload: Workload, layers: int = 28) -> str:
    """Where the time goes, by operation, as PyTorch's profiler sees it."""
    import torch

    loaded = load(engine, options, layers)
    prompts, _ = workload.prompts()
    judge(loaded, prompts, workload)
    with torch.profiler.profile() as profiler:
        judge(loaded, prompts, workload)
    on_gpu = device_and_dtype(options)[0] != "cpu"
    table: Callable[..., str] = profiler.key_averages().table
    return table(sort_by="self_cuda_time_total" if on_gpu else "self_cpu_time_total", row_limit=25)


def to_markdown(results: list[Result]) -> str:
    """The results as a table, and whether the goal was met."""
    first = results[0]
    lines = [
        f"{first.device}, {', '.join(f'{k} {v}' for k, v in first.versions.items())}; Qwen3-0.6B's shape with "
        f"{first.parameters / 1e6:,.0f}M parameters in its layers, random weights; {first.matmul_tflops:,.4g} TFLOP/s "
        "measured on a large matrix product.",
        "",
        "| engine | words | lengths | content tokens/s | lowest | highest | segments/s | bound | of bound | GiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        work = r.workload
        name = " ".join([r.engine, *(f"{k}={v}" for k, v in r.options.items() if k != "device")])
        lines.append(
            f"| {name} | {work['interval']} | {work['mix']} | {r.rate:,.0f} | {min(r.runs):,.0f} | {max(r.runs):,.0f} "
            f"| {r.rate * work['segments'] / r.content_tokens:,.0f} | {r.bound:,.0f} | {r.rate / r.bound:.0%} "
            f"| {r.peak_gib:.1f} |"
        )
    best = max(r.rate for r in results)
    template = f"With the whole template computed for each segment the bound is {first.bound_whole_template:,.0f}."
    if "H100" not in first.device and "H200" not in first.device:
        return "\n".join([*lines, "", f"{template} The goal is for an H200, which this device is not."]) + "\n"
    met = [f"{name} {goal:,}: {'met' if best >= goal else 'missed'}" for name, goal in GOALS]
    return (
        "\n".join([*lines, "", f"{template} Goals for one H200: {'; '.join(met)}. {best / PAPER:.1f}x the paper."])
        + "\n"
    )


def write_results(results: list[Result], prefix: Path) -> None:
    """PREFIX.json and PREFIX.md."""
    rows = [asdict(r) | {"content_tokens_per_s": r.rate} for r in results]
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")
    prefix.with_suffix(".md").write_text(to_markdown(results))
