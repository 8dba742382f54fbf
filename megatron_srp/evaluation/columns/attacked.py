"""Attack success: how many of the answers to an attack's cases are what the attacker wanted, by each judge.

A judge of words can do with the first tokens of an answer; one that asks whether the request was met cannot.
So `max_new_tokens` may be a number for each: `{heuristic: 10, llm: 256}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from megatron_srp.errors import UsageError
from megatron_srp.evaluation.answers import answer, attack_cases
from megatron_srp.evaluation.attack import load_attack
from megatron_srp.evaluation.behaviors import with_target
from megatron_srp.evaluation.column import CaseResult, ColumnResult, ColumnSpec, Context, Measure, NotRun
from megatron_srp.evaluation.judges import JUDGES, Exchange, Opinion, mix
from megatron_srp.evaluation.judges.heuristic import HeuristicJudge
from megatron_srp.evaluation.types import Attack, AttackCase, Behavior, Defence, Response, TargetModel
from megatron_srp.statistics.paired import wilson

NOT_REFUSED = "did not refuse (heuristic)"
STRICT = "heuristic, strict"


def attacked(spec: ColumnSpec, context: Context) -> ColumnResult:
    """Options: `attack` and its own `options`, `defence`, `judges`, `make_targets`, and `max_new_tokens`: a number, or
    one for each judge."""
    options = spec.options
    if options.get("base_only") and context.target.chat:
        raise NotRun("for base models: this one has a chat template (--no-chat asks it without)")
    facts, behaviors = context.behaviors(spec)
    if options.get("make_targets"):
        behaviors = [with_target(behavior) for behavior in behaviors]
    attack = load_attack(options["attack"], **{"seed": context.seed, **options.get("options", {})})
    if not hasattr(attack, "cases"):
        raise UsageError(f"column {spec.name}: attack {options['attack']} changes the model; its kind is finetune")
    defence = Defence(options.get("defence", "unguarded"))
    found, reasons = attack_cases(cast(Attack, attack), behaviors, context.target, defence, context)
    pairs = [(behavior, case) for behavior, case in zip(behaviors, found, strict=True) if case]
    behaviors, cases = [behavior for behavior, _ in pairs], [case for _, case in pairs]
    if any(reasons):
        facts |= {"without_a_case": sum(map(bool, reasons)), "because": next(filter(None, reasons))}
    return judged(spec, context, context.target, behaviors, cases, defence, facts)


def judged(
    spec: ColumnSpec,
    context: Context,
    target: TargetModel,
    behaviors: Sequence[Behavior],
    cases: Sequence[AttackCase],
    defence: Defence,
    facts: Mapping[str, Any],
) -> ColumnResult:
    """The column of these cases: answered, judged and counted. The answers that it shows are the longest."""
    names = spec.options.get("judges", JUDGES)
    opinions: dict[str, list[Opinion]] = {}
    not_run: dict[str, str] = {}
    responses: Sequence[Response | None] = []
    reasons: Sequence[str] = []
    for length, readers in _readers(spec.options.get("max_new_tokens"), names):
        responses, reasons = answer(cases, target, defence, context, spec.name, length)
        given, missing = opinions_on(spec, context, behaviors, cases, responses, reasons, judges=readers)
        opinions |= given
        not_run |= missing
    if "mixed" in names:
        mix(opinions, not_run)
    results = [
        CaseResult(
            behavior.id,
            case,
            response,
            {name: opinions[name][i].verdict for name in names if name in opinions},
            behavior.category,
            behavior.harmful,
            reason or "; ".join(opinions[name][i].failure for name in opinions if opinions[name][i].failure),
        )
        for i, (behavior, case, response, reason) in enumerate(zip(behaviors, cases, responses, reasons, strict=True))
    ]
    facts = {**facts, **speed(responses), "defence": str(defence)}
    return ColumnResult(spec, _measures(names, opinions, not_run), results, facts=facts)


def _measures(names: Sequence[str], opinions: Mapping[str, list[Opinion]], not_run: Mapping[str, str]) -> list[Measure]:
    """A rate for each judge, under the name that a report gives it."""
    labels = {"strict": STRICT}
    if opinions.keys() - {"strict"} == {HeuristicJudge.name}:
        labels[HeuristicJudge.name] = NOT_REFUSED  # nobody has read the answers: nonsense is no success of an attack
    measures = [
        rate(name, opinions[name]) if name in opinions else Measure(name, None, not_run=not_run[name]) for name in names
    ]
    return [replace(m, label=labels[m.name]) if m.name in labels else m for m in measures]


def _readers(lengths: int | Mapping[str, int] | None, names: Sequence[str]) -> list[tuple[int | None, list[str]]]:
    """The judges that read answers of each length, the longest last."""
    plain = [name for name in names if name != "mixed"]
    if not isinstance(lengths, Mapping):
        return [(lengths, plain)]
    most = max(lengths.values())
    own = {"strict": lengths.get("heuristic", most)} | dict(lengths)
    by_length = {length: [name for name in plain if own.get(name, most) == length] for length in {*own.values(), most}}
    return sorted((length, readers) for length, readers in by_length.items() if readers)


def opinions_on(
    spec: ColumnSpec,
    context: Context,
    behaviors: Sequence[Behavior],
    cases: Sequence[AttackCase],
    responses: Sequence[Response | None],
    reasons: Sequence[str],
    question: str = "jailbreak",
    judges: Sequence[str] = (),
) -> tuple[dict[str, list[Opinion]], dict[str, str]]:
    """Opinions by judge on all cases, None for those without an answer, whose failure is one of `reasons`."""
    answered = [i for i, response in enumerate(responses) if response is not None]
    exchanges = [
        Exchange(behaviors[i].prompt, cast(Response, responses[i]), cases[i].prefill, behaviors[i].response)
        for i in answered
    ]
    found, not_run = context.panel.ask(judges or spec.options.get("judges", JUDGES), exchanges, question)
    spread = {name: [Opinion(None, f"no answer: {reason}") for reason in reasons] for name in found}
    for name, given in found.items():
        for i, opinion in zip(answered, given, strict=True):
            spread[name][i] = opinion
    return spread, not_run


def rate(name: str, opinions: Sequence[Opinion]) -> Measure:
    """The share of yes among the opinions given."""
    verdicts = [opinion.verdict for opinion in opinions if opinion.verdict is not None]
    if opinions and not verdicts:
        return Measure(name, None, not_run=f"no opinion on any of {len(opinions)} cases: {opinions[0].failure}")
    return Measure(name, wilson(sum(verdicts), len(verdicts)), failed=len(opinions) - len(verdicts))


def speed(responses: Sequence[Response | None]) -> dict[str, Any]:
    """Answers and tokens per second of generation, as measured when they were made."""
    made = [response for response in responses if response is not None]
    seconds = sum(response.seconds for response in made)
    if not seconds:
        return {}
    tokens = sum(len(response.tokens) for response in made)
    return {"answers_per_s": round(len(made) / seconds, 3), "tokens_per_s": round(tokens / seconds, 1)}
