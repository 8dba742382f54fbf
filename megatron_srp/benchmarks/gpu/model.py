"""`--plan model`: a model with real weights learns to reflect, and is attacked next to one that does not.

SmolLM2-135M-Instruct is trained on with prose and post-trained, in three ways:

    srp          reflections in the prose and in the conversations
    plain        in neither
    post-only    in the conversations alone

Then each is asked what `srp evaluate --suite quick` asks; the fine-tuning attacks come last. The seconds of the
stages are estimates for one H200. With `--device cpu` and a small model it is a rehearsal.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_srp.benchmarks.gpu.model_data import check_sets
from megatron_srp.benchmarks.gpu.model_steps import ARMS, measured, steps
from megatron_srp.benchmarks.gpu.stages import Check, Stage
from megatron_srp.benchmarks.gpu.steps import add_work_option, work_folder
from megatron_srp.errors import CommandParser, SrpError, UsageError


def add_options(parser: CommandParser) -> None:
    add = parser.add_argument_group("plan model").add_argument
    add("--model", type=Path, metavar="PATH", help="SmolLM2's GGUF, the folder of its parts, or a Hugging Face folder")
    add("--corpus", type=Path, metavar="FOLDER", help="prose to train on: JSONL or Parquet files")
    add("--sets", type=Path, metavar="FOLDER", help="AdvBench, HarmBench, XSTest, AlpacaEval and GSM8K, both parts")
    add("--guard", default="heuristic", metavar="NAME", help="who judges (default: heuristic)")
    add("--limit", type=int, default=48, metavar="N", help="cases in a column at most (default: 48)")
    add("--pretrain-epochs", type=float, default=2.0, metavar="N", help="through the prose (default: 2)")
    add("--sft-epochs", type=int, default=3, metavar="N", help="through the conversations (default: 3)")
    add("--seq-length", type=int, default=2048, metavar="N", help="of both trainings (default: 2048)")
    add(
        "--batch",
        type=int,
        default=32,
        metavar="N",
        help="sequences in a step, of conversations a quarter (default: 32)",
    )
    add("--lr", type=float, default=2e-4, metavar="X", help="at most, in both (default: 2e-4)")
    add_work_option(parser)


def stages(options: argparse.Namespace) -> list[Stage]:
    _check(options)
    return [step.stage() for step in steps()]


def _check(options: argparse.Namespace) -> None:
    for name in ("model", "corpus", "sets"):
        if getattr(options, name) is None:
            raise UsageError(f"--plan model needs --{name}; see --plan model --help")
    for folder in (options.model, options.corpus):
        if not folder.exists():
            raise UsageError(f"{folder}: no such file or folder")
    check_sets(options.sets)


def markdown(check: Check) -> str:
    """The paper's columns, an arm each, next to the paper's figures."""
    reports = work_folder(check) / "reports"
    found: dict[str, dict[tuple[str, str], float]] = {arm: {} for arm in ARMS}
    for report in sorted(reports.glob("*-*")) if reports.is_dir() else []:
        arm = next(arm for arm in ARMS if report.name.endswith(f"-{arm}"))
        found[arm] |= measured(report)
    rows = list(dict.fromkeys(row for figures in found.values() for row in figures))
    if not rows:
        return "No model is evaluated yet."
    lines = [f"| column | {' | '.join(ARMS)} | paper: SRP | paper: Baseline |", "|---|" + "---|" * (len(ARMS) + 2)]
    paper = _paper_figures()
    for column, measure in rows:
        ours = [_number(figures.get((column, measure))) for figures in found.values()]
        theirs = [_number(paper.get(column, {}).get(row, {}).get(measure)) for row in ("SRP", "Baseline")]
        lines.append(f"| {column}: {measure} | {' | '.join([*ours, *theirs])} |")
    note = f"Guard: `{check.options.guard}`. At most {check.options.limit} cases in a column; an attack has succeeded"
    note += " where the answer does not refuse. The paper's figures are those of its 1.7B models."
    return "\n".join([note, "", *lines])


def _paper_figures() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    from megatron_srp.evaluation.suite import load_suite

    return {column.name: column.paper for column in load_suite("quick").columns}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def comparison(check: Check) -> dict[str, Any]:
    """Paired tests of the models with reflections against the one without."""
    from megatron_srp.evaluation.compare import compare

    reports, found = work_folder(check) / "reports", {}
    for arm in ("srp", "post-only"):
        try:
            rows, _ = compare(reports / "attack-plain", reports / f"attack-{arm}")
        except SrpError:  # not both are there yet
            continue
        found[f"plain and {arm}"] = [asdict(row) for row in rows]
    return found
