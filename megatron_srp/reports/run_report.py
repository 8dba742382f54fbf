"""The report of one run: a document with its reflections, the guard's verdicts, the loss, the verdicts it learned."""

from pathlib import Path
from typing import Any

from megatron_srp.files import write_text
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.reports.pages import LINE_COLOR, VERDICT_COLORS, draw_counts, load_page, picture
from megatron_srp.reports.scalars import LOSS, Curve, means, right_verdicts
from megatron_srp.schema import AnnotatedDocument

_WIDTH = 10  # steps of a mean: a step of a small run reads few verdicts other than Safe


def _draw_losses(losses: Curve) -> str:
    def draw(axes: Any) -> None:
        axes.plot(*zip(*losses, strict=True), color=LINE_COLOR, linewidth=1.5)
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats per token)")
        axes.grid(alpha=0.3)

    return picture(draw, 7, 3)


def _draw_verdicts(curves: dict[str, Curve]) -> str:
    """Verdicts are told apart by marks as well as by colours."""

    def draw(axes: Any) -> None:
        for (verdict, curve), mark in zip(curves.items(), "os^", strict=False):
            axes.plot(
                *zip(*means(curve, _WIDTH), strict=True),
                color=VERDICT_COLORS[verdict],
                marker=mark,
                markersize=4,
                label=verdict,
            )
        axes.set_xlabel("step")
        axes.set_ylabel("right verdicts")
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)

    return picture(draw, 7, 3)


def write_report(
    path: str | Path,
    manifest: dict[str, Any],
    document: AnnotatedDocument | None = None,
    scalars: dict[str, Curve] | None = None,
) -> Path:
    """Write one self-contained HTML file; parts without data are left out.

    Args:
        manifest: PREFIX.srp.json of reflected shards.
        document: shown with its reflections.
        scalars: what the run logged, from `read_scalars`.
    """
    form = ReflectionFormat()
    pieces = []
    if document:
        for segment, label in zip(document.segments, document.labels, strict=True):
            text = document.text[segment.start : segment.end]
            pieces.append((text, form.render(label), str(form.resolve(label).verdict), form.stops(label)))
    counts, scalars = manifest["counts"], scalars or {}
    losses, curves = scalars.get(LOSS), right_verdicts(scalars)
    html = load_page("run_report.html").render(
        manifest=manifest,
        counts=counts,
        added=counts["tokens"] - counts["plain_tokens"],
        pieces=pieces,
        verdicts=draw_counts(counts["verdicts"], VERDICT_COLORS) if counts["verdicts"] else None,
        categories=draw_counts(counts["categories"], {}) if counts["categories"] else None,
        losses=losses,
        curve=_draw_losses(losses) if losses else None,
        learned=_draw_verdicts(curves) if curves else None,
        width=_WIDTH,
    )
    return write_text(Path(path), html)
