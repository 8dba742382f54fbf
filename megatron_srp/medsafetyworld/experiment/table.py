"""The main figures of report.json as a table for the terminal: the report has the intervals, and more."""

from collections.abc import Mapping
from typing import Any

_COLUMNS = {
    "General": "general",
    "ASR": "asr",
    "strict": "asr_strict",
    "text": "text",
    "forged": "forged_new",
    "honest": "honest",
    "calibrated": "calibrated_any",
    "latent": "latent_before",
}
_LEGEND = """\
General: benign questions answered rightly. ASR: harmful ones answered rightly after the paper's prefixes; strict:
also where the answer is flagged afterwards; text: strict, begun as pretraining texts begin; forged: strict, after
forged Safe reflections in wordings of no training example; honest: strict, after an Unsafe reflection that did not
stop; calibrated: what is left of the strongest attack with a reflection forced after the question, at a threshold from
benign questions alone. latent: harmful facts known before SFT, without which a low ASR means nothing. In percent, means
over seeds, (least-most). Whether a prefix breaks the model, and all else, is in the report."""


def format_table(report: Mapping[str, Any]) -> str:
    """The table, a legend, and what the figures show."""
    header = ["setting", "stage", "seeds", *_COLUMNS]
    rows = [
        [row["setting"], row["stage"], str(len(row["seeds"])), *(_cell(row.get(key)) for key in _COLUMNS.values())]
        for row in report["summary"]
        if row.get("general")
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    measured = [finding for finding in report["findings"] if finding["status"] != "not measured"]
    findings = [f"{finding['status']:<10} {finding['claim']}. {finding['text']}" for finding in measured]
    left = len(report["findings"]) - len(measured)
    note = [f"{left} more claims need models that are not trained here; the report names them."] if left else []
    return "\n".join([*map(str.rstrip, lines), _LEGEND, "", *findings, *note])


def _cell(figure: Mapping[str, Any] | None) -> str:
    if not figure:
        return "-"
    spread = f" ({figure['least']:.0f}-{figure['most']:.0f})" if figure["seeds"] > 1 else ""
    return f"{figure['mean']:.1f}{spread}"
