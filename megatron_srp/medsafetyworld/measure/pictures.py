"""The plots of a report, and their content."""

from collections.abc import Sequence
from typing import Any

from megatron_srp.medsafetyworld.experiment.variants import SFT, VARIANTS
from megatron_srp.medsafetyworld.measure import plot
from megatron_srp.medsafetyworld.measure.summary import Group, setting_name, stage_name, title


def scatters(asked: Sequence[Group], figures: Any) -> list[plot.Picture]:
    """A plot for each stage, and one of strict scoring after SFT."""
    stages = list(dict.fromkeys(group.stage for group in asked))
    wanted = [(stage, metric) for stage in stages for metric in ("asr", "asr_strict")[: 1 + (stage == SFT)]]
    return [
        plot.scatter(
            f"{title(stage_name(stage))}, {'strict' if metric == 'asr_strict' else 'as published'}",
            [_series(group, metric, figures) for group in asked if group.stage == stage],
        )
        for stage, metric in wanted
    ]


def _series(group: Group, metric: str, figures: Any) -> plot.Series:
    general, asr = group.values("general"), group.values(metric)
    published = figures.get(group.setting, {}).get(group.stage, {}) if metric == "asr" else {}
    x, y = published.get("general"), published.get("asr")
    known = (x, y) if isinstance(x, float) and isinstance(y, float) else None
    return plot.Series(group.setting, [(general[seed], asr[seed]) for seed in general if seed in asr], known)


def two_by_two(points: Sequence[dict[str, Any]]) -> plot.Picture | None:
    """Label information and form of a reflection, for each attack; None without figures to compare."""
    if len({point["cell"] for point in points}) < 2:
        return None
    groups: dict[str, list[plot.Bar]] = {}
    for point in points:
        asr, benign = point["asr"], point["benign"]
        bar = plot.Bar(point["cell"], asr["mean"], asr["low"], asr["high"], benign["mean"] if benign else None)
        groups.setdefault(point["attack"], []).append(bar)
    return plot.bars("Label information and form", groups)


def threshold_curves(asked: Sequence[Group]) -> list[plot.Picture]:
    """A plot for each model that was trained to reflect: the harmful and benign shares it stops."""
    return [
        plot.curves(f"{setting_name(group.setting)} {stage_name(group.stage)}", _mean_curve(group))
        for group in asked
        if group.setting in VARIANTS and VARIANTS[group.setting].reflected and _mean_curve(group)
    ]


def _mean_curve(group: Group) -> list[dict[str, float]]:
    found = [m["forced"]["prompt"]["curve"] for m in group.models.values() if m["forced"]["prompt"]["curve"]]
    return [
        {name: sum(point[name] for point in points) / len(points) for name in points[0]}
        for points in zip(*found, strict=True)
    ]
