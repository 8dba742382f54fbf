"""The report of one run: a document with its reflections, what the guard said, and the loss curve."""

import base64
import io
from pathlib import Path
from typing import Any

from megatron_srp.data.manifest import write_text
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import AnnotatedDocument

_COLORS = {"Safe": "#2f7d4f", "Controversial": "#b7791f", "Unsafe": "#b83232"}


def _picture(draw: Any, width: float, height: float) -> str:
    """What `draw(axes)` draws, as a data address of a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), dpi=150, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _draw_losses(losses: list[tuple[int, float]]) -> str:
    def draw(axes: Any) -> None:
        axes.plot(*zip(*losses, strict=True), color="#2b4c7e", linewidth=1.5)
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats per token)")
        axes.grid(alpha=0.3)

    return _picture(draw, 7, 3)


def _draw_counts(counts: dict[str, int], colors: dict[str, str]) -> str:
    names = sorted(counts, key=lambda name: counts[name])

    def draw(axes: Any) -> None:
        bars = axes.barh(names, [counts[name] for name in names], color=[colors.get(n, "#55657d") for n in names])
        axes.bar_label(bars, [f"{counts[name]:,}" for name in names], padding=4)
        axes.margins(x=0.15)
        axes.set_xlabel("segments")

    return _picture(draw, 7, 0.9 + 0.32 * len(names))


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
    from jinja2 import Environment, PackageLoader

    form = ReflectionFormat()
    pieces = []
    if document:
        for segment, label in zip(document.segments, document.labels, strict=True):
            text = document.text[segment.start : segment.end]
            pieces.append((text, form.render(label), str(form.resolve(label).verdict), form.stops(label)))
    counts = manifest["counts"]
    page = Environment(loader=PackageLoader("megatron_srp", "reports"), autoescape=True).get_template("run_report.html")
    html = page.render(
        manifest=manifest,
        counts=counts,
        added=counts["tokens"] - counts["plain_tokens"],
        pieces=pieces,
        verdicts=_draw_counts(counts["verdicts"], _COLORS) if counts["verdicts"] else None,
        categories=_draw_counts(counts["categories"], {}) if counts["categories"] else None,
        losses=losses,
        curve=_draw_losses(losses) if losses else None,
    )
    return write_text(Path(path), html)
