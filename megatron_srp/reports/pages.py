"""What the reports share: their page, and plots as pictures inside it, so that a report is one file."""

import base64
import io
import warnings
from collections.abc import Callable
from typing import Any

VERDICT_COLORS = {"Safe": "#2f7d4f", "Controversial": "#b7791f", "Unsafe": "#b83232"}
LINE_COLOR, BAR_COLOR = "#2b4c7e", "#55657d"


def load_page(name: str, escape: bool = True) -> Any:
    """The template of that name; its values are escaped for HTML, or not."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("megatron_srp", "reports")
    return Environment(loader=loader, autoescape=escape, trim_blocks=True, lstrip_blocks=True).get_template(name)


def picture(draw: Callable[[Any], None], width: float, height: float) -> str:
    """What `draw(axes)` draws, as a data address of a PNG; sizes in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), dpi=150, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in scripts the font lacks
        figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_counts(counts: dict[str, int], colors: dict[str, str]) -> str:
    """A bar for every name, the longest on top."""
    names = sorted(counts, key=lambda name: counts[name])

    def draw(axes: Any) -> None:
        bars = axes.barh(
            [_plain(name) for name in names],
            [counts[name] for name in names],
            color=[colors.get(name, BAR_COLOR) for name in names],
        )
        axes.bar_label(bars, [f"{counts[name]:,}" for name in names], padding=4)
        axes.margins(x=0.15)
        axes.set_xlabel("segments")

    return picture(draw, 7, 0.9 + 0.32 * len(names))


def _plain(name: str) -> str:
    """A name that matplotlib takes literally: a dollar sign would begin a formula."""
    short = name if len(name) <= 40 else f"{name[:39]}…"
    return short.replace("$", r"\$")
