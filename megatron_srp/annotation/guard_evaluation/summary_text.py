"""A guard's evaluation as Markdown."""

from collections.abc import Mapping
from math import isnan

from megatron_srp.annotation.guard_evaluation.evaluate import Evaluation
from megatron_srp.annotation.guard_evaluation.metrics import Accuracy


def to_text(found: Evaluation) -> str:
    """Tables of accuracies, confusion by kind of text, thresholds and calibration."""
    lines = [
        f"Guard {found.settings['guard']}, revision {found.settings['revision']}; Controversial counts as "
        f"{found.controversial}. Accuracies in percent.",
        "",
        *_accuracies("data set", found.accuracies),
    ]
    for name, table in found.confusion.items():
        lines += ["", *_confusion(name, table)]
    if found.categories:
        lines += ["", "Categories named: " + ", ".join(f"{name} {n}" for name, n in found.categories.items()) + "."]
    lines += ["", *_probabilities(found)]
    if found.agreement:
        same = f"{found.agreement['same_verdict']:.2%} of verdicts, {found.agreement['same_label']:.2%} with categories"
        lines += ["", f"Verdicts read in one pass and written in full agree: {same}."]
        lines += [f"- {pair}: {n}" for pair, n in found.agreement["pairs"].items()]
    return "\n".join([*lines, *(f"no verdict: {failure}" for failure in found.failures)])


def _accuracies(title: str, rows: Mapping[str, Accuracy]) -> list[str]:
    def percent(value: float) -> str:
        return "-" if isnan(value) else f"{100 * value:.1f}"

    head = f"| {title} | safe texts | unsafe texts | on safe | on unsafe | harmonic mean | no verdict |"
    body = [
        f"| {name} | {a.safe} | {a.unsafe} | {percent(a.on_safe)} | {percent(a.on_unsafe)} "
        f"| {percent(a.harmonic_mean)} | {a.failed} |"
        for name, a in rows.items()
    ]
    return [head, "|---" * 7 + "|", *body]


def _confusion(name: str, table: Mapping[str, Mapping[str, int]]) -> list[str]:
    verdicts = sorted({verdict for counts in table.values() for verdict in counts})
    head = [f"| {name} | {' | '.join(verdicts)} |", "|---" * (len(verdicts) + 1) + "|"]
    return head + [f"| {kind} | {' | '.join(str(c.get(v, 0)) for v in verdicts)} |" for kind, c in table.items()]


def _probabilities(found: Evaluation) -> list[str]:
    if not found.thresholds:
        return ["This guard gives no probabilities: no thresholds and no calibration."]
    lines = _accuracies("threshold", {f"{t:g}": a for t, a in found.thresholds.items()})
    lines += ["", f"Expected calibration error {found.calibration.error:.3f}.", ""]
    lines += ["| texts | mean probability of harm | share harmful |", "|---|---|---|"]
    return lines + [f"| {n} | {mean:.2f} | {share:.2f} |" for n, mean, share in found.calibration.bins]
