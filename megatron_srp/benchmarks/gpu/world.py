"""`--plan world`: the paper's controlled experiment, `srp world run`, Filtering against SRP on one GPU.

    world    both settings, post-trained, with and without examples that recover from a harmful beginning
    tuned    the same models, fine-tuned on harmless and on harmful data

The second continues from the first. The seconds are estimates for one H200.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from megatron_srp.benchmarks.gpu.stages import Check, Stage
from megatron_srp.benchmarks.gpu.steps import Argv, Place, Step, add_work_option, keep, read_json, work_folder
from megatron_srp.errors import CommandParser
from megatron_srp.medsafetyworld.experiment.presets import PRESETS

_PHASES = {
    "world": "sft,sft-recovery",
    "tuned": "sft-recovery,adversarial,benign-original,benign-mix-sft,benign-reflection",
}


def add_options(parser: CommandParser) -> None:
    add = parser.add_argument_group("plan world").add_argument
    add("--preset", choices=list(PRESETS), default="small", help="size of the world and of its models (default: small)")
    add("--limit", type=int, default=400, metavar="N", help="questions of each class at most (default: 400)")
    add_work_option(parser)


def stages(options: argparse.Namespace) -> list[Stage]:
    return [step.stage() for step in steps()]


def steps() -> list[Step]:
    return [_step("world", 120, 500), _step("tuned", 60, 400, needs=("world",))]


def _step(name: str, least_s: float, most_s: float, needs: tuple[str, ...] = ()) -> Step:
    return Step(name, least_s, most_s, partial(_command, name), partial(_figures, name), needs)


def _command(name: str, place: Place) -> list[Argv]:
    options = place.options
    flags = ["--preset", options.preset, "--settings", "filtering,srp", "--stages", _PHASES[name], "--seeds", 1]
    flags += ["--limit", options.limit, "--workers", min(8, os.cpu_count() or 1)]
    return [(sys.executable, "-m", "megatron_srp", "world", "run", *flags, place.folder / "run")]


def _figures(name: str, place: Place) -> dict[str, Any]:
    run = place.folder / "run"
    for file in ("report.json", "report.html"):
        keep(place.check, run / file, f"{name}-{file}")
    return {"findings": [finding["claim"] for finding in _report(run).get("findings", ())]}


def _report(run: Path) -> dict[str, Any]:
    file = run / "report.json"
    return read_json(file) if file.is_file() else {}


def markdown(check: Check) -> str:
    """The table that `srp world run` prints, and the seconds of its steps."""
    from megatron_srp.medsafetyworld.experiment.table import format_table

    run = work_folder(check) / "run"
    report = _report(run)
    table = format_table(report) if report else "No report yet."
    return "\n".join(["```text", table, "```", "", "| step | s |", "|---|---|", *_seconds(run)])


def _seconds(run: Path) -> list[str]:
    """Of the steps that are done: what a larger preset would cost shows here."""
    states = {str(file.relative_to(run / "steps")): read_json(file) for file in sorted((run / "steps").rglob("*.json"))}
    done = {name.removesuffix(".json"): state for name, state in states.items() if state.get("state") == "done"}
    return [f"| {name} | {state['seconds']:.0f} |" for name, state in done.items()]


def comparison(check: Check) -> dict[str, Any]:
    return {"findings": _report(work_folder(check) / "run").get("findings", [])}
