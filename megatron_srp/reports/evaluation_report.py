"""report.html of an evaluation: the paper's columns next to the measured ones, and the cases to read.

One self-contained page that runs only its own script; texts of prompts and models are escaped.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from megatron_srp.files import write_text
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.reports.document_texts import visible
from megatron_srp.reports.pages import load_page

CASES_SHOWN = 300  # of a column; all of them are in cases.jsonl
_PAPER_ROWS = ("SRP", "SRP-Hint", "Post-training only", "Baseline")


def write_evaluation_report(path: Path, report: Mapping[str, Any], cases: Iterable[Mapping[str, Any]]) -> Path:
    """Write the page of what `evaluation.report` found."""
    script = files("megatron_srp.reports").joinpath("evaluation_report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shown = _shown(cases)
    labels = {c["name"]: {m["name"]: m["label"] for m in c["measures"] if "label" in m} for c in report["columns"]}
    form = ReflectionFormat.from_description(report["model"]["settings"]["unguarded"]["form"])
    html = load_page("evaluation_report.html").render(
        report=report,
        name=visible(report["model"]["name"]),
        paper_rows=[row for row in _PAPER_ROWS if any(row in column["paper"] for column in report["columns"])],
        columns=[_column(column) for column in report["columns"]],
        cases=[_case(case, form, labels.get(case["column"], {})) for case in shown],
        column_names=list(dict.fromkeys(case["column"] for case in shown)),
        cases_shown=CASES_SHOWN,
        script=script,
        script_hash=digest,
    )
    return write_text(path, html)


def _shown(cases: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first cases of each column that have text to read."""
    counts: dict[str, int] = {}
    found = []
    for case in cases:
        counts[case["column"]] = counts.get(case["column"], 0) + 1
        if counts[case["column"]] <= CASES_SHOWN and case["prompt"]:
            found.append(case)
    return found


def _column(column: Mapping[str, Any]) -> dict[str, Any]:
    tables = {name: value for name, value in column["facts"].items() if isinstance(value, list) and value}
    facts = {n: v for n, v in column["facts"].items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
    measures = [
        {**m, "paper": {row: values.get(m["name"]) for row, values in column["paper"].items()}}
        for m in column["measures"]
    ]
    unmatched = [
        f"{row} {name} {value:g}"
        for row, values in column["paper"].items()
        for name, value in values.items()
        if name not in {m["name"] for m in column["measures"]}
    ]
    return {**column, "measures": measures, "tables": tables, "shown_facts": facts, "paper_only": unmatched}


def _case(case: Mapping[str, Any], form: ReflectionFormat, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        **{name: visible(value) if isinstance(value, str) else value for name, value in case.items()},
        "outcomes": {labels.get(name, name): _outcome(value) for name, value in case["outcomes"].items()},
        "pieces": _pieces(case["raw"], form) if case["raw"] is not None else [],
    }


def _outcome(value: bool | float | None) -> str:
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:g}"


def _pieces(raw: str, form: ReflectionFormat) -> list[tuple[str, str, str]]:
    """What the model wrote: texts, each with the reflection after it and its verdict ("" for none)."""
    pieces, at = [], 0
    for start, end, label in form.find(raw):
        pieces.append((visible(raw[at:start]), visible(raw[start:end]), str(label.verdict)))
        at = end
    return [*pieces, (visible(raw[at:]), "", "")]
