"""The figures and answers of the tour, as Markdown."""

import json
import re
from pathlib import Path
from typing import Any

from megatron_srp.data.shards.manifest import manifest_path, read_manifest

_LOSS = re.compile(r"iteration +\d+/.*?lm loss: ([\d.]+E[-+]\d+)")


def write_summary(out: Path) -> Path:
    """Write `out`/summary.md and return it."""
    parts = [_first(out), _training(out), _answers(out), _evaluation(out), _seconds(out)]
    path = out / "summary.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _first(out: Path) -> str:
    found = _json(out / "first.json")
    rows = [f"| {i} | {a:.5f} | {b:.5f} |" for i, (a, b) in enumerate(_pairs(found), 1)]
    note = f"Logits differ by at most {found['largest_difference_of_logits']:.1e} of the largest one."
    return "\n".join(["| batch | loss, Megatron | loss, transformers |", "|---|---|---|", *rows, "", note])


def _pairs(found: dict[str, Any]) -> list[tuple[float, float]]:
    return list(zip(found["losses"], found["losses_of_transformers"], strict=True))


def _training(out: Path) -> str:
    counts = read_manifest(manifest_path(out / "prose"))["counts"]
    share = counts["tokens"] / counts["plain_tokens"] - 1
    lines = [f"{counts['documents']:,} documents, {counts['plain_tokens']:,} tokens and {share:.1%} of reflections."]
    for name, log in (("Continued pretraining", "pretrain"), ("Post-training", "sft")):
        losses = logged_losses(out / f"{log}.log")
        lines.append(f"{name}: {len(losses)} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}.")
    return "\n".join(lines)


def _answers(out: Path) -> str:
    before, after = (_rows(out / f"{name}.jsonl") for name in ("before", "after"))
    lines = ["| question | as it came | post-trained, guarded | P(unsafe) of the prompt |", "|---|---|---|---|"]
    for old, new in zip(before, after, strict=True):
        unsafe = f"{new['forced'][0]['unsafe']:.2f}" if new["forced"] else ""
        question = old["messages"][0]["content"]
        lines.append(f"| {question} | {_cell(old['text'])} | {_cell(new['text'])} | {unsafe} |")
    return "\n".join(lines)


def _evaluation(out: Path) -> str:
    lines = ["| column | measure | value | cases |", "|---|---|---|---|"]
    for column in _json(out / "evaluation" / "report.json")["columns"]:
        for measure in column["measures"]:
            if measure["value"] is not None:
                value = f"{measure['value']:.4g} {measure['unit']}"
                lines.append(f"| {column['name']} | {measure['name']} | {value} | {measure['n']} |")
    return "\n".join(lines)


def _seconds(out: Path) -> str:
    files = sorted(out.glob("*.done"), key=lambda file: file.stat().st_mtime)
    return "Seconds: " + ", ".join(f"{file.stem} {file.read_text()}" for file in files) + "."


def logged_losses(log: Path) -> list[float]:
    """The loss of each step."""
    return [float(loss) for loss in _LOSS.findall(log.read_text(errors="replace"))]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
