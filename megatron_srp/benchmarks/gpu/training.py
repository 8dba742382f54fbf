"""The plan `training`: the job in bf16 and FP8, the guard, the tests on a GPU, and two ranks."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from megatron_srp.benchmarks.gpu import cases, report, two_ranks
from megatron_srp.benchmarks.gpu.processes import ended
from megatron_srp.benchmarks.gpu.report import CaseResult
from megatron_srp.benchmarks.gpu.stages import Check, Outcome, Stage
from megatron_srp.errors import CommandParser, UsageError
from megatron_srp.training.flags.presets import PRESETS, find_preset
from megatron_srp.training.layout.flops import bf16_peak

ROOT = Path(__file__).parents[3]
# On a CPU: enough to go through all of it.
DEFAULTS = {
    "cuda": {"preset": "1p7b", "steps": 40, "micro_batch": 8, "accumulate": 2, "documents": 4000},
    "cpu": {"preset": "debug", "steps": 4, "micro_batch": 2, "accumulate": 1, "documents": 100},
}
GUARD = {
    "cuda": ["--batch-tokens", "32768", "--runs", "3"],
    "cpu": ["--batch-tokens", "1024", "--runs", "1", "--layers", "1", "--segments", "8", "--device", "cpu"],
}
TEST = re.compile(r"^\S+::(?P<name>\S+) (?P<status>PASSED|FAILED|ERROR|SKIPPED)", re.MULTILINE)


def add_options(parser: CommandParser) -> None:
    gpu = DEFAULTS["cuda"]
    parser.add_argument("--preset", choices=list(PRESETS), help=f"whose layers are measured (default: {gpu['preset']})")
    parser.add_argument("--layers", type=int, help="fewer layers than the preset has")
    parser.add_argument("--steps", type=int, help=f"of each case (default: {gpu['steps']})")
    parser.add_argument("--micro-batch", type=int, help=f"sequences (default: {gpu['micro_batch']})")
    parser.add_argument("--accumulate", type=int, help=f"micro-batches in a step (default: {gpu['accumulate']})")
    parser.add_argument("--documents", type=int, help=f"of the corpus (default: {gpu['documents']})")


def stages(options: argparse.Namespace) -> list[Stage]:
    """All of them, in the order of their value; completes the options."""
    for name, value in DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    most = find_preset(options.preset).num_layers
    options.layers = min(options.layers or most, most)
    if min(options.layers, options.steps, options.micro_batch, options.accumulate, options.documents) < 1:
        raise UsageError("--layers, --steps, --micro-batch, --accumulate and --documents must be at least 1")
    return [
        *map(cases.stage, cases.CASES),
        Stage("guard", 30, 100, guard),
        Stage("tests", 40, 200, tests),
        *map(cases.stage, cases.LATER_CASES),
        *map(two_ranks.stage, two_ranks.PARALLEL),
    ]


def guard(check: Check, limit_s: float) -> Outcome:
    """Content tokens a second of the guard's engine."""
    results = check.folder / "guard.json"
    command = [sys.executable, "-m", "megatron_srp", "bench", "guard", *GUARD[check.options.device], "--out", results]
    code = check.run(command, "guard.log", limit_s)
    status, reason = ended(code, check.read_log("guard.log"))
    if not results.exists():
        return Outcome("guard", status, reason)
    rows = json.loads(results.read_text())
    best = max(row["content_tokens_per_s"] for row in rows)
    return Outcome("guard", status, reason, figures={"content_tokens_per_s": best, "rows": rows})


def tests(check: Check, limit_s: float) -> Outcome:
    """The tests of tests/gpu; those that had ended count where they were cut."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--color", "no", ROOT / "tests" / "gpu"]
    code = check.run(command, "tests.log", limit_s)
    log = check.read_log("tests.log")
    status, reason = ended(code, log)
    found = [(match["name"], match["status"]) for match in TEST.finditer(log)]
    figures: dict[str, Any] = {kind.lower(): sum(state == kind for _, state in found) for _, kind in found}
    bad = [name for name, state in found if state in ("FAILED", "ERROR")]
    return Outcome("tests", status, f"failed: {', '.join(bad)}" if bad else reason, figures=figures)


def results(check: Check) -> list[CaseResult]:
    return [outcome for outcome in check.outcomes if isinstance(outcome, CaseResult)]


def comparison(check: Check) -> dict[str, Any]:
    """For the JSON: each case's throughput, and what the goals are about."""
    peak = bf16_peak(check.machine.devices.name)
    figures = {result.stage: report.throughput(result, check.options, peak) for result in results(check)}
    return {"throughput": figures, **report.compare(results(check), check.options, peak)}


def markdown(check: Check) -> str:
    found = results(check)
    table = report.markdown(found, check.options, check.machine.devices.name) if found else ""
    return table + _guard_text(check)


def _guard_text(check: Check) -> str:
    found = check.outcome("guard")
    if found is None or not found.figures:
        return ""
    from megatron_srp.benchmarks.guard_gpu import Result, to_markdown

    rows = [
        {key: value for key, value in row.items() if key != "content_tokens_per_s"} for row in found.figures["rows"]
    ]
    return "\n" + to_markdown([Result(**row) for row in rows])
