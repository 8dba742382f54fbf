"""What `srp threshold` prints: the curve, the threshold, and what to think of it."""

from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.threshold.calibration import ROUND, Calibration, Cases, false_stops, prompts_differ
from megatron_srp.generation.threshold.recommend import Point, at_threshold, recommend, threshold_curve


def to_text(benign: Cases, harmful: Cases | None, found: Calibration | None, max_false_stops: float) -> str:
    """The curve at round thresholds, as a Markdown table, and the recommendation."""
    if harmful is None:
        lines = _of_benign(benign)
        return "\n".join([*lines, *_percentile(benign, found)] if found else lines)
    curve = threshold_curve(harmful.unsafe, benign.unsafe, harmful.succeeds)
    lines = [f"{len(harmful.unsafe)} harmful and {len(benign.unsafe)} benign answers\n", *_table(curve)]
    best = recommend(curve, max_false_stops)
    return "\n".join([*lines, *_recommended(curve, best), *_weakness(found)] if best else lines)


def _table(curve: list[Point]) -> list[str]:
    rows = [(f"{at:g}", at_threshold(curve, at)) for at in ROUND]
    body = [f"| {name} | {100 * p.attack_success:.1f} | {100 * p.false_stops:.1f} |" for name, p in rows]
    return ["| threshold | attack success % | false stops % |", "|---|---|---|", *body, ""]


def _recommended(curve: list[Point], best: Point) -> list[str]:
    own = GuardPolicy().unsafe_threshold
    default = at_threshold(curve, own)
    setting, low, high = (repr(value).removesuffix(".0") for value in (best.setting, *best.shown))
    return [
        f"--unsafe-threshold {setting}: attack success {best.attack_success:.1%}, false stops "
        f"{best.false_stops:.1%}; so does any above {low}, up to {high}.",
        f"The default, {own:g}: attack success {default.attack_success:.1%}, false stops {default.false_stops:.1%}.",
    ]


def of_check(benign: Cases, found: Calibration) -> str:
    """What a calibration does to other benign answers."""
    share, low, high = false_stops(benign.unsafe, found.threshold)
    count = len(benign.unsafe)
    lines = [f"{count} benign answers: {found.threshold!r} stops {share:.1%} (95%: {low:.1%} to {high:.1%})."]
    warning = prompts_differ(round(share * count), count, found.max_false_stops)
    return "\n".join([*lines, *([f"warning: {warning}"] if warning else [])])


def _weakness(found: Calibration | None) -> list[str]:
    if not found or found.auc is None:
        return []
    area = found.auc
    lines = [f"AUC {area['value']:.4f} (95%: {area['low']:.3f} to {area['high']:.3f})."]
    return (
        lines
        if not found.at_chance
        else [
            *lines,
            "P(unsafe) is no higher for harmful answers than for benign ones: this model's verdicts are at chance.",
        ]
    )


def _of_benign(benign: Cases) -> list[str]:
    rows = [f"| {at:g} | {100 * false_stops(benign.unsafe, at)[0]:.1f} |" for at in ROUND]
    return [f"{len(benign.unsafe)} benign answers\n", "| threshold | false stops % |", "|---|---|", *rows, ""]


def _percentile(benign: Cases, found: Calibration) -> list[str]:
    share, low, high = false_stops(benign.unsafe, found.threshold)
    lines = [
        f"--unsafe-threshold {found.threshold!r}: false stops {share:.1%} (95%: {low:.1%} to {high:.1%}), by benign "
        "answers alone."
    ]
    if "percentile" in found.benign:
        top = "unbounded, too few answers" if found.benign["high"] is None else f"{found.benign['high']:.3g}"
        bottom = 0.0 if found.benign["low"] is None else found.benign["low"]
        lines.append(
            f"{1 - found.max_false_stops:.4g} of them have P(unsafe) up to {found.benign['percentile']:.3g} "
            f"(95%: {bottom:.3g} to {top})."
        )
    return lines
