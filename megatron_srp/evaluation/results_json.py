"""report.json and cases.jsonl: what a run found, in bytes that are the same whenever it is found again.

No dates, no durations of this run, no paths: a second run from the cache writes the same bytes.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import isnan
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError
from megatron_srp.evaluation.column import CaseResult, ColumnResult, Context
from megatron_srp.evaluation.suite import Suite
from megatron_srp.evaluation.types import Defence
from megatron_srp.files import write_text
from megatron_srp.statistics.paired import kappa

FORMAT_VERSION = 1
REPORT, CASES = "report.json", "cases.jsonl"


def to_report(suite: Suite, context: Context, results: Sequence[ColumnResult], limit: int | None) -> dict[str, Any]:
    """All figures, as JSON."""
    target = context.target
    return {
        "format_version": FORMAT_VERSION,
        "suite": {"name": suite.name, "title": suite.title, "limit": limit},
        "model": {
            "name": target.name,
            "fingerprint": target.fingerprint,
            "settings": {str(defence): target.settings(defence) for defence in Defence},
        },
        "judges": {name: judge.settings for name, judge in context.panel.judges.items()},
        "judges_not_run": context.panel.missing,
        "guard": context.guard.settings if context.guard else None,
        "seed": context.seed,
        "columns": [_column(result) for result in results],
        "judge_agreement": judge_agreement(results),
    }


def _column(result: ColumnResult) -> dict[str, Any]:
    spec = result.spec
    return {
        "name": spec.name,
        "kind": spec.kind,
        "better": spec.better,
        "not_run": result.not_run,
        "options": dict(spec.options),
        "measures": [measure.to_json() for measure in result.measures],
        "paper": {row: dict(values) for row, values in spec.paper.items()},
        "facts": dict(result.facts),
        "cases": [{"id": case.id, "harmful": case.harmful, "outcomes": dict(case.outcomes)} for case in result.cases],
    }


def judge_agreement(results: Sequence[ColumnResult]) -> list[dict[str, Any]]:
    """How often two judges agree on a case, over all attacks, and Cohen's kappa."""
    names = ("heuristic", "llm", "harmbench", "reference")
    cases = [
        case for result in results if result.spec.kind in ("attack", "finetune", "tampering") for case in result.cases
    ]
    rows = []
    for a, b in combinations(names, 2):
        pairs = [(x, y) for case in cases if (x := _said(case, a)) is not None and (y := _said(case, b)) is not None]
        if pairs:
            found = kappa(*zip(*pairs, strict=True))
            same = sum(x == y for x, y in pairs) / len(pairs)
            rows.append(
                {
                    "judges": [a, b],
                    "cases": len(pairs),
                    "agreement": round(100 * same, 4),
                    "kappa": None if isnan(found) else round(found, 4),
                }
            )
    return rows


def _said(case: CaseResult, judge: str) -> bool | None:
    verdict = case.outcomes.get(judge)
    return None if verdict is None else bool(verdict)


def case_lines(results: Sequence[ColumnResult]) -> Iterable[dict[str, Any]]:
    """Each case with its texts, as JSON."""
    for result in results:
        for case in result.cases:
            response = case.response
            yield {
                "column": result.spec.name,
                "id": case.id,
                "category": case.category,
                "harmful": case.harmful,
                "prompt": case.case.prompt,
                "prefill": case.case.prefill,
                "facts": dict(case.case.facts),
                "answer": response.text if response else None,
                "raw": response.raw if response else None,
                "stop_reason": response.stop_reason if response else None,
                "num_tokens": len(response.tokens) if response else None,
                "outcomes": dict(case.outcomes),
                "note": case.note,
            }


def write_report(folder: Path, report: dict[str, Any], results: Sequence[ColumnResult]) -> None:
    """Write both files."""
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in case_lines(results))
    write_text(folder / CASES, "".join(lines))
    write_text(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def read_report(path: Path) -> dict[str, Any]:
    """A report, read from its file or the folder of an evaluation; raises InputError for anything else."""
    file = path / REPORT if path.is_dir() else path
    try:
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if report["format_version"] != FORMAT_VERSION:
            raise InputError(f"{file}: format {report['format_version']}, this version reads {FORMAT_VERSION}")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; pass the --out folder of `srp evaluate`, or its report.json") from None
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not a report of `srp evaluate` ({type(error).__name__}); pass its --out folder or report.json"
        ) from None
    return report
