"""The report of one run: a document with its reflections, the guard's verdicts, and the loss curve."""

from pathlib import Path
from typing import Any

from megatron_srp.files import write_text
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.reports.pages import LINE_COLOR, VERDICT_COLORS, draw_counts, load_page, picture
from megatron_srp.schema import AnnotatedDocument


def _draw_losses(losses: list[tuple[int, float]]) -> str:
    def draw(axes: Any) -> None:
        axes.plot(*zip(*losses, strict=True), color=LINE_COLOR, linewidth=1.5)
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats per token)")
        axes.grid(alpha=0.3)

    return picture(draw, 7, 3)


def write_report(
    path: str | Path,
    manifest: dict[str, Any],
    document: AnnotatedDocument | None = None,
    losses: list[tuple[int, float]] | None = None,
) -> Path:
    """Write one self-contained HTML file; parts without data are left out.

    Args:
        manifest: PREFIX.srp.json of reflected shards.
        document: shown with its reflections.
        losses: (step, loss).
    """
    form = ReflectionFormat()
    pieces = []
    if document:
        for segment, label in zip(document.segments, document.labels, strict=True):
            text = document.text[segment.start : segment.end]
            pieces.append((text, form.render(label), str(form.resolve(label).verdict), form.stops(label)))
    counts = manifest["counts"]
    html = load_page("run_report.html").render(
        manifest=manifest,
        counts=counts,
        added=counts["tokens"] - counts["plain_tokens"],
        pieces=pieces,
        verdicts=draw_counts(counts["verdicts"], VERDICT_COLORS) if counts["verdicts"] else None,
        categories=draw_counts(counts["categories"], {}) if counts["categories"] else None,
        losses=losses,
        curve=_draw_losses(losses) if losses else None,
    )
    return write_text(Path(path), html)
