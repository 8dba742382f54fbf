"""How fast MedSafetyWorld is made, and in how much memory."""

import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from megatron_srp.benchmarks import Options
from megatron_srp.benchmarks.sections import Section
from megatron_srp.benchmarks.timing import Timing, compare, spread

_GOAL = 50.0  # MB/s of text on two cores


@dataclass(frozen=True, slots=True)
class _Case:
    """One world, and how often it is made."""

    preset: str
    task: str
    setting: str
    runs: int


_QUICK = [_Case("mini", "single-hop", "srp", 1)]
_CASES = [
    *(_Case("small", task, setting, 3) for task in ("single-hop", "two-hop") for setting in ("filtering", "srp")),
    _Case("paper", "single-hop", "srp", 1),
]


def run(options: Options) -> Section:
    """Make worlds on two processes. The paper's needs 14 GB of disk while it is measured."""
    lines = [
        "| world | text MB | CPU s | wall s | MB/s | MB/CPU-s | goal | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(case) for case in (_QUICK if options.quick else _CASES)]
    described = (
        f"`srp world make --workers 2` on {len(os.sched_getaffinity(0))} cores, start-up, hashes and verdicts "
        "included; median (least to most). MB are of text only. MB/s are the rate of two cores with nothing "
        f"else to do: twice MB/CPU-s; goal {_GOAL:.0f}. Peak memory is that of the largest process."
    )
    body = "\n\n".join([described, "\n".join(lines)])
    return Section("world", "MedSafetyWorld", "srp bench run world", ("megatron-srp", "numpy", "pyarrow"), body)


def _row(case: _Case) -> str:
    with tempfile.TemporaryDirectory(prefix="srp-bench-") as folder:
        out = Path(folder) / "world"
        command = [sys.executable, "-m", "megatron_srp", "world", "make", "--preset", case.preset, "--task", case.task]
        command += ["--setting", case.setting, "--workers", "2", str(out)]
        timing = compare({"": command}, case.runs, before_each=lambda: shutil.rmtree(out, ignore_errors=True))[""]
        size = json.loads((out / "world.json").read_text())["corpus"]["text_bytes"] / 1e6
    return _format(case, timing, size)


def _format(case: _Case, timing: Timing, size: float) -> str:
    per_cpu = size / statistics.median(timing.cpu_s)
    verdict = "met" if 2 * per_cpu >= _GOAL else "missed"
    if case.preset == "mini":  # start-up alone
        verdict = ""
    return (
        f"| {case.preset}, {case.task}, {case.setting} | {size:,.0f} | {spread(timing.cpu_s, 1)} | "
        f"{spread(timing.wall_s, 1)} | {2 * per_cpu:,.0f} | {per_cpu:,.0f} | "
        f"{verdict} | {timing.memory / 1e6:,.0f} |"
    )
