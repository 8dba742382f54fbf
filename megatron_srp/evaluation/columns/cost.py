"""What reflections cost: tokens of an answer that are reflections, and time for an answer, by defence.

Time is that of the run that made the answers, in its batches; it does not change when they come from the cache.
"""

import numpy as np

from megatron_srp.evaluation.column import ColumnResult, ColumnSpec, Context, Measure, NotRun
from megatron_srp.evaluation.types import Response
from megatron_srp.statistics.paired import bootstrap, mean


def cost(spec: ColumnSpec, context: Context) -> ColumnResult:
    """No options."""
    by_defence: dict[str, list[Response]] = {}
    for column in context.done:
        for case in column.cases:
            if case.response is not None and column.spec.kind in ("attack", "overrefusal"):
                by_defence.setdefault(column.facts["defence"], []).append(case.response)
    if not by_defence:
        raise NotRun("no answers in the preceding columns")
    measures = []
    for defence, responses in by_defence.items():
        extra = np.array([context.target.reflection_tokens(response) for response in responses], float)
        tokens = np.array([len(response.tokens) for response in responses], float)
        seconds = np.array([response.seconds for response in responses])
        both = np.stack([extra, tokens], axis=1)
        measures += [
            Measure(f"tokens of an answer, {defence}", bootstrap(tokens, mean), "tokens"),
            Measure(f"tokens of them in reflections, {defence}", bootstrap(extra, mean), "tokens"),
            Measure(f"share of tokens in reflections, {defence}", bootstrap(both, _share)),
            Measure(f"time of an answer, {defence}", bootstrap(seconds, mean), "s"),
        ]
    return ColumnResult(spec, measures)


def _share(rows: np.ndarray) -> float:
    return float(rows[:, 0].sum() / rows[:, 1].sum()) if rows[:, 1].sum() else float("nan")
