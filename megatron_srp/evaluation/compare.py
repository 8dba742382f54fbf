"""Two evaluations side by side: for each figure that both have, the difference and whether it may be chance.

Shares are compared case by case with McNemar's exact test, other figures with a paired bootstrap; only cases
that both evaluations have are counted. There is no correction for multiple comparisons: of twenty figures that
do not differ, one has p below 0.05 on average.

Intervals and p-values cover the choice of prompts. There is one training run on each side: whether the recipe of B is
better than that of A, or this run of it, no number of prompts can say; that takes several seeds of training.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.errors import UsageError
from megatron_srp.evaluation.results_json import read_report
from megatron_srp.statistics.paired import harmonic, mcnemar, mean, paired_bootstrap


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both evaluations, over their common cases.

    Attributes:
        a, b: in `unit`.
        low, high: 95% interval of `b - a`.
        p: two-sided; None where there are no common cases.
        better: of "lower" and "higher".
    """

    column: str
    measure: str
    unit: str
    cases: int
    a: float
    b: float
    low: float
    high: float
    p: float | None
    better: str

    @property
    def winner(self) -> str:
        """A or B where the difference is significant, else nothing."""
        if self.p is None or self.p >= 0.05 or self.a == self.b:
            return ""
        return "B" if (self.b < self.a) == (self.better == "lower") else "A"


def compare(a: Path, b: Path) -> tuple[list[Comparison], list[str]]:
    """Comparisons, and the columns that only one of them has or that were run differently.

    Raises:
        InputError: for a path that is not an evaluation.
        UsageError: when the two have nothing in common.
    """
    first, second = ({column["name"]: column for column in read_report(path)["columns"]} for path in (a, b))
    found: list[Comparison] = []
    left_out = [f"{name}: only in one" for name in {**first, **second} if (name in first) != (name in second)]
    for name in first:
        if name in second:
            rows, reason = _column(first[name], second[name])
            found += rows
            left_out += [f"{name}: {reason}"] if reason else []
    if not found:
        raise UsageError(
            f"{a} and {b} have no column with common cases; evaluate both with the same --suite and --data"
        )
    return found, left_out


def _column(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[Comparison], str]:
    if a["not_run"] or b["not_run"]:
        return [], "not run in both"
    if a["options"] != b["options"] or a["facts"].get("data") != b["facts"].get("data"):
        return [], "other data or options"
    cases_a, cases_b = ({case["id"]: case for case in column["cases"]} for column in (a, b))
    rows = []
    for measure in a["measures"]:
        pairs = _pairs(measure["name"], cases_a, cases_b)
        if pairs and any(other["name"] == measure["name"] for other in b["measures"]):
            rows.append(_comparison(a, measure, pairs))
    return rows, "" if rows else "no common cases"


_Pair = tuple[bool, float, float]  # harmful, outcome of A, outcome of B


def _pairs(measure: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[_Pair]:
    """Outcomes of the cases that both have; accuracies and their mean are computed from whether a case is right."""
    name = "right" if measure in ("safe accuracy", "unsafe accuracy", "harmonic mean") else measure
    wanted = {"safe accuracy": (False,), "unsafe accuracy": (True,)}.get(measure, (False, True))
    found = []
    for id in a.keys() & b.keys():
        x, y = a[id]["outcomes"].get(name), b[id]["outcomes"].get(name)
        if x is not None and y is not None and a[id]["harmful"] in wanted:
            found.append((id, (bool(a[id]["harmful"]), float(x), float(y))))
    return [pair for _, pair in sorted(found)]


def _comparison(column: Mapping[str, Any], measure: Mapping[str, Any], pairs: Sequence[_Pair]) -> Comparison:
    name, scale = measure["name"], 100 if measure["unit"] == "%" else 1
    harmful, x, y = (np.array(values, float) for values in zip(*pairs, strict=True))
    by_label = name == "harmonic mean"
    score: Callable[[np.ndarray], float] = harmonic if by_label else mean
    a, b = (np.stack([harmful, values], 1) if by_label else values for values in (x, y))
    difference, p = paired_bootstrap(a, b, score)
    if not by_label and set(np.unique(np.concatenate([x, y]))) <= {0.0, 1.0}:
        p = mcnemar(x.astype(bool).tolist(), y.astype(bool).tolist())
    value_a, value_b, low, high = (
        round(float(scale * v), 4) for v in (score(a), score(b), difference.low, difference.high)
    )
    return Comparison(
        column["name"],
        name,
        measure["unit"],
        len(pairs),
        value_a,
        value_b,
        low,
        high,
        None if np.isnan(p) else float(p),
        measure.get("better") or column["better"],
    )


def to_text(found: Sequence[Comparison], left_out: Sequence[str], names: tuple[str, str]) -> str:
    """As Markdown."""
    lines = [
        f"A: {names[0]}; B: {names[1]}. Over common cases; p by McNemar's exact test or a paired bootstrap.",
        "p is about other prompts for these two models, not about training either of them again with another seed.",
        "",
        "| column | measure | cases | A | B | B - A (95%) | p | better |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in found:
        p = "-" if c.p is None else "< 0.001" if c.p < 0.001 else f"{c.p:.3f}"
        difference = f"{c.b - c.a:+.2f} ({c.low:+.2f} to {c.high:+.2f})"
        lines.append(
            f"| {c.column} | {c.measure} | {c.cases} | {c.a:.2f} | {c.b:.2f} | {difference} | {p} | {c.winner} |"
        )
    return "\n".join([*lines, *([""] if left_out else []), *(f"left out: {line}" for line in left_out)])


def to_json(found: Sequence[Comparison], left_out: Sequence[str], names: tuple[str, str]) -> str:
    tree = {"a": names[0], "b": names[1], "comparisons": [{**asdict(c), "winner": c.winner} for c in found]}
    return json.dumps({**tree, "left_out": list(left_out)}, indent=1, ensure_ascii=False) + "\n"
