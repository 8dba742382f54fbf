"""Plots as SVG inside the page: they follow its colours, light or dark, and need no script.

Colours and line styles are classes that `reports/world_report.html` styles: `c-filtering`, `line`, `grid`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 400, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 14, 46
_SHAPES = {  # around 0, 0; a shape as well as a colour for each setting
    "baseline": "M-6-6H6V6H-6Z",
    "filtering": "M0-7A7 7 0 1 1-.01-7Z",
    "filtering-plus": "M0-8 7 6H-7Z",
    "rewrite": "M0-8 8 0 0 8-8 0Z",
    "post-only": "M-7-3H-3V-7H3V-3H7V3H3V7H-3V3H-7Z",
    "filtering-tags": "M-7-4H7V4H-7Z",
    "srp-all-safe": "M0-8 8 6H-8Z M-8-3H8L0 8Z",
    "srp-random": "M-7-7 0-3 7-7 3 0 7 7 0 3-7 7-3 0Z",
    "filtering-filler": "M-4-8H4V8H-4Z",
    "filtering-steps": "M-8 8V2H-3V-3H3V-8H8V8Z",
    "filtering-sft": "M-8-8V-2H-3V3H-8V8H8V3H3V-2H8V-8Z",
    "filter-document": "M-8-8H8V-4H-4V8H-8Z",
    "drop-segment": "M-8-8H8V8H4V-4H-8Z",
    "mask-loss": "M-8-3 0-8 8-3V8H4V0H-4V8H-8Z",
    "hide": "M-8-6H-2V-2H2V-6H8V6H2V2H-2V6H-8Z",
    "tag-before": "M-8-8 8 0-8 8Z",
    "tag-inside": "M8-8V8L-8 0Z",
    "srp-special": "M-8 0-4-8H4L8 0 4 8H-4Z",
    "srp-questions": "M-8-8H8V-1L0 2V8H-3V0L4-3V-4H-8Z",
    "srp": "M0-9 2.6-3 9-2.6 4 1.6 5.6 8 0 4.4-5.6 8-4 1.6-9-2.6-2.6-3Z",
}
_OTHER = "M0 8-7-6H7Z"


@dataclass(frozen=True, slots=True)
class Series:
    """A setting's models: (General, ASR) in percent of each seed, and the paper's where it has one."""

    setting: str
    points: Sequence[tuple[float, float]]
    published: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a setting's colour up to `value`, a line from `low` to `high`, and a dot at `mark`; all in percent."""

    setting: str
    value: float
    low: float
    high: float
    mark: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """SVG, safe to put into a page as it is."""

    title: str
    picture: str


def shape(setting: str, x: float, y: float, size: float = 1.0, style: str = "") -> str:
    """The setting's mark."""
    path = _SHAPES.get(setting, _OTHER)
    place = f"translate({x:.1f} {y:.1f}) scale({size})"
    return f'<path class="c-{css_name(setting)} {style}" d="{path}" transform="{place}"/>'


def css_name(setting: str) -> str:
    """A setting's class: its name if it is known."""
    return setting if setting in _SHAPES else "other"


def scatter(title: str, series: Sequence[Series]) -> Picture:
    """ASR against General: a small mark for each seed, a large one for the mean, bars from least to most."""
    body = _axes("General (%), more is better", "ASR (%), less is better", 100)
    for one in series:
        body += [shape(one.setting, *_at(*point), 0.55, "seed") for point in one.points]
    for one in series:
        if one.published:
            body.append(shape(one.setting, *_at(*one.published), 1.15, "published"))
        if one.points:
            body += _mean(one)
    said = "; ".join(f"{one.setting}: {_say(one.points)}" for one in series if one.points)
    return _svg(title, f"{title}. Mean General and ASR in percent. {said}", body)


def _say(points: Sequence[tuple[float, float]]) -> str:
    general, asr = (sum(column) / len(points) for column in zip(*points, strict=True))
    return f"{general:.1f}, {asr:.1f}"


def _mean(series: Series) -> Iterable[str]:
    xs, ys = zip(*series.points, strict=True)
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    bars = [((min(xs), y), (max(xs), y)), ((x, min(ys)), (x, max(ys)))]
    style = f"c-{css_name(series.setting)} bar"
    yield from (_line(_at(*a), _at(*b), style) for a, b in bars if a != b)
    yield shape(series.setting, *_at(x, y), 1.1, "mean")


def curves(title: str, points: Sequence[dict[str, float]]) -> Picture:
    """Harmful and benign questions stopped, by threshold."""
    body = _axes("threshold for P(Unsafe)", "stopped (%)", 1)
    for name in ("harmful", "benign"):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_at(100 * p["threshold"], p[name]) for p in points))
        body.append(f'<polyline class="line {name}" points="{path}"/>')
    middle = min(points, key=lambda p: abs(p["threshold"] - 0.5))
    said = (
        f"At 0.5 {middle['harmful']:.0f} percent of the harmful and {middle['benign']:.0f} of the benign are stopped."
    )
    return _svg(title, f"{title}. {said}", body)


def bars(title: str, groups: Mapping[str, Sequence[Bar]]) -> Picture:
    """Bars side by side for each group, those of one setting in the same place of each."""
    body = [_line(_at(0, percent), _at(100, percent), "grid") for percent in range(0, 101, 20)]
    body += [
        f'<text x="{_LEFT - 7}" y="{_at(0, percent)[1] + 4:.1f}" text-anchor="end">{percent}</text>'
        for percent in range(0, 101, 20)
    ]
    settings = list(dict.fromkeys(bar.setting for found in groups.values() for bar in found))
    room = 100 / max(len(groups), 1)
    wide = 0.8 * room / max(len(settings), 1)
    for place, (name, found) in enumerate(groups.items()):
        for bar in found:
            body += _bar(bar, room * (place + 0.1) + wide * settings.index(bar.setting), wide)
        x, y = _at(room * (place + 0.5), 0)
        body.append(
            f'<text class="small" x="{x:.1f}" y="{y + 12:.1f}" text-anchor="end" '
            f'transform="rotate(-30 {x:.1f} {y + 12:.1f})">{escape(name)}</text>'
        )
    said = "; ".join(
        f"{name}: {', '.join(f'{bar.setting} {bar.value:.1f}' for bar in found)}" for name, found in groups.items()
    )
    return _svg(title, f"{title}. Strict ASR in percent. {said}", body)


def _bar(bar: Bar, left: float, wide: float) -> Iterable[str]:
    (x, top), (right, bottom) = _at(left, bar.value), _at(left + wide, 0)
    middle = left + wide / 2
    colour = f"c-{css_name(bar.setting)}"
    yield (
        f'<rect class="{colour}" x="{x:.1f}" y="{top:.1f}" width="{0.85 * (right - x):.1f}" '
        f'height="{bottom - top:.1f}"/>'
    )
    yield _line(_at(middle, bar.low), _at(middle, bar.high), "whisker")
    if bar.mark is not None:
        across, up = _at(middle, bar.mark)
        yield f'<circle class="benign-right" cx="{across:.1f}" cy="{up:.1f}" r="2.6"/>'


def _at(x: float, y: float) -> tuple[float, float]:
    """Where a point in percent of both axes is."""
    across, up = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return _LEFT + across * x / 100, _HEIGHT - _BOTTOM - up * y / 100


def _axes(across: str, up: str, most: float) -> list[str]:
    body = []
    for percent in range(0, 101, 20):
        (x, bottom), (left, y) = _at(percent, 0), _at(0, percent)
        body += [_line((x, bottom), _at(percent, 100), "grid"), _line((left, y), _at(100, percent), "grid")]
        body.append(f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{percent * most / 100:g}</text>')
        body.append(f'<text x="{left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
    x, y = _at(50, 50)
    body.append(f'<text class="name" x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>')
    turn = f"rotate(-90 12 {y:.1f})"
    body.append(f'<text class="name" x="12" y="{y:.1f}" text-anchor="middle" transform="{turn}">{escape(up)}</text>')
    return body


def _line(a: tuple[float, float], b: tuple[float, float], style: str) -> str:
    return f'<line class="{style}" x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"/>'


def _svg(title: str, description: str, body: Iterable[str]) -> Picture:
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">'
    return Picture(title, f"{head}{''.join(body)}</svg>")


def legend_mark(setting: str) -> str:
    """The setting's mark by itself."""
    return f'<svg class="mark" viewBox="-10 -10 20 20" aria-hidden="true">{shape(setting, 0, 0, 1, "mean")}</svg>'
