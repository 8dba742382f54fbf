"""Ordinary requests: how many are refused, and how often the answer is judged better than the reference.

`helpfulness` is the share that the LLM does not call refused. The paper's is read so: 93.67% and 96.00% are 281 and 288
of its 300 prompts.
"""

from dataclasses import replace

from megatron_srp.evaluation.answers import answer
from megatron_srp.evaluation.attack import DirectRequest
from megatron_srp.evaluation.column import CaseResult, ColumnResult, ColumnSpec, Context, Measure
from megatron_srp.evaluation.columns.attacked import opinions_on, rate, speed
from megatron_srp.evaluation.judges import Opinion
from megatron_srp.evaluation.recalibrate import warn_of_other_prompts
from megatron_srp.evaluation.types import Defence

WIN_RATE = "win rate"
HELPFULNESS = "helpfulness"


def overrefusal(spec: ColumnSpec, context: Context) -> ColumnResult:
    """Options: `defence`, `judges`, `win_rate` (whether to compare with the references), `max_new_tokens`."""
    facts, behaviors = context.behaviors(spec)
    defence = Defence(spec.options.get("defence", "unguarded"))
    cases = list(DirectRequest().cases(behaviors, context.target, defence))
    limit = spec.options.get("max_new_tokens")
    responses, reasons = answer(cases, context.target, defence, context, spec.name, limit)
    opinions, not_run = opinions_on(spec, context, behaviors, cases, responses, reasons, "refusal")
    columns = {f"refused, {judge}": given for judge, given in opinions.items()}
    missing = {f"refused, {judge}": reason for judge, reason in not_run.items()}
    if "llm" in opinions:
        columns[HELPFULNESS] = [_opposite(opinion) for opinion in opinions["llm"]]
    else:
        missing[HELPFULNESS] = not_run.get("llm", "needs the llm judge")
    if spec.options.get("win_rate"):
        better, no_judge = opinions_on(spec, context, behaviors, cases, responses, reasons, "preference")
        columns |= {WIN_RATE: better["llm"]} if "llm" in better else {}
        missing |= {} if "llm" in better else {WIN_RATE: no_judge.get("llm", "needs the llm judge")}
    measures = [rate(measure, given) for measure, given in columns.items()]
    measures += [Measure(measure, None, not_run=reason) for measure, reason in missing.items()]
    measures = [replace(m, better="higher") if m.name in (WIN_RATE, HELPFULNESS) else m for m in measures]
    results = [
        CaseResult(
            behavior.id,
            case,
            responses[i],
            {measure: given[i].verdict for measure, given in columns.items()},
            behavior.category,
            behavior.harmful,
            reasons[i],
        )
        for i, (behavior, case) in enumerate(zip(behaviors, cases, strict=True))
    ]
    facts |= warn_of_other_prompts(responses, context) if defence is Defence.GUARDED else {}
    return ColumnResult(spec, measures, results, facts={**facts, **speed(responses), "defence": str(defence)})


def _opposite(opinion: Opinion) -> Opinion:
    return opinion if opinion.verdict is None else Opinion(not opinion.verdict)
