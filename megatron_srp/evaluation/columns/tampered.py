"""Tampering: the weights are changed, and the result is asked directly; before and after, at what cost.

Options: `attack` and its `options` as for fine-tuning, with a list as `lr` where the attacker tries several rates;
`ordinary`, data sets with answers, of which the first that has a source gives the ordinary requests;
`defences_compared`, names of `evaluation.detection.DETECTORS`. Measures:

    JUDGE                       attack success after the tampering
    JUDGE, forced reflection    the same where a forced reflection on the prompt stops what reaches a threshold that
                                was chosen from ordinary requests to the changed model
    told apart                  chance that the forced reflection finds a harmful request worse than an ordinary one
    answer loss                 nats for a token of the ordinary answers, a measure of capability; read after a Safe
                                reflection where that suits the model better
    right answers               to ordinary requests, where the judge `reference` is asked

Where a copy judges prompts (`prompt_verdicts_by`), the forced reflection is the copy's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from megatron_srp.evaluation.answers import answer
from megatron_srp.evaluation.attack import DirectRequest, attack_class, load_attack
from megatron_srp.evaluation.behaviors import choose, load_behaviors
from megatron_srp.evaluation.column import CaseResult, ColumnResult, ColumnSpec, Context, Measure
from megatron_srp.evaluation.columns.attacked import judged, opinions_on, rate
from megatron_srp.evaluation.columns.finetuned import TrainingProgress
from megatron_srp.evaluation.columns.rates import DESPITE, TOLD_APART, most_successful
from megatron_srp.evaluation.detection import DETECTORS, Requests, detect, fitted_threshold
from megatron_srp.evaluation.judges.reference import ReferenceJudge
from megatron_srp.evaluation.results import key_of
from megatron_srp.evaluation.types import Behavior, Defence, ModelAttack
from megatron_srp.statistics.paired import bootstrap, mean, wilson

if TYPE_CHECKING:
    from megatron_srp.evaluation.hf_target import HFTarget

FORCED = "forced"
ANSWER_LOSS, RIGHT = "answer loss", "right answers"
_ANSWER_WORDS = 60  # of an ordinary answer, whose loss is read
_ORDINARY = ("alpaca", "xstest", "gsm8k")


def tampered(spec: ColumnSpec, context: Context) -> ColumnResult:
    """See above."""
    options = spec.options.get("options", {})
    if not isinstance(options.get("lr"), list):
        return _tampered(spec, context)

    def at(rate: float) -> ColumnResult:
        return _tampered(replace(spec, options={**spec.options, "options": {**options, "lr": rate}}), context)

    return most_successful(options["lr"], at)


def _tampered(spec: ColumnSpec, context: Context) -> ColumnResult:
    """The column for one set of the attack's options."""
    facts, behaviors = context.behaviors(spec)
    ordinary = _ordinary(spec, context)
    attack, changed = _changed(spec, context, behaviors, ordinary)
    after = _measured(spec, context, changed, behaviors, ordinary)
    before = _measured(spec, context, context.target, behaviors, ordinary)
    from megatron_srp.attacks.tampering.change import read_cost

    facts |= {
        "attackers_steps": read_cost(_folder(context, attack))["steps"],
        "ordinary": len(ordinary),
        "attack": dict(attack.settings),
        "before_and_after": _side_by_side(before, after),
    }
    requests = Requests([b.prompt for b in behaviors], [b.prompt for b in ordinary])
    if names := spec.options.get("defences_compared", ()):
        facts["defences_compared"] = [_compared(name, context, changed, requests) for name in names]
    return replace(after, facts={**after.facts, **facts})


def _ordinary(spec: ColumnSpec, context: Context) -> list[Behavior]:
    name = context.source_of(spec.options.get("ordinary", _ORDINARY), "ordinary requests")
    found = [b for b in load_behaviors(name, context.sources[name]) if not b.harmful]
    return choose(found, context.limit, lambda b: context.target.has_room_for(b.prompt))[0]


def _changed(
    spec: ColumnSpec, context: Context, asked: Sequence[Behavior], ordinary: Sequence[Behavior]
) -> "tuple[ModelAttack, HFTarget]":
    from megatron_srp.evaluation.hf_target import HFTarget

    given = {"seed": context.seed, **_with_sources(spec.options.get("options", {}), context)}
    if "leave_out" in signature(attack_class(spec.options["attack"])).parameters:
        given["leave_out"] = tuple(b.prompt for b in (*asked, *ordinary))
    attack = cast(ModelAttack, load_attack(spec.options["attack"], **given))
    attack.on_step = TrainingProgress(spec.name, context.progress)
    folder = attack.attack(Path(context.model), _folder(context, attack))
    return attack, HFTarget(str(folder), context.target.options)


def _folder(context: Context, attack: ModelAttack) -> Path:
    key = key_of(attack.name, attack.settings, context.target.fingerprint)
    return context.store.folder / "models" / key


def _with_sources(options: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """`{source: NAMES}` as the file of the first that has one; `X_format` says which that was, for an `X`."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if not isinstance(value, Mapping):
            found[name] = value
            continue
        names = [value["source"]] if isinstance(value["source"], str) else value["source"]
        data = context.source_of(names, f"{name} for the attack")
        found |= {name: context.sources[data]} | ({} if data == "base" else {f"{name}_format": data})
    return found


def _measured(
    spec: ColumnSpec,
    context: Context,
    target: "HFTarget",
    behaviors: Sequence[Behavior],
    ordinary: Sequence[Behavior],
) -> ColumnResult:
    """The column of one model, changed or not."""
    defence = Defence(spec.options.get("defence", "unguarded"))
    cases = list(DirectRequest().cases(behaviors, target, defence))
    result = judged(spec, context, target, behaviors, cases, defence, {})
    requests = Requests([b.prompt for b in behaviors], [b.prompt for b in ordinary])
    scores = _scores(FORCED, context, target.judge_of_prompts(), requests)
    by_forced = _with_forced(result, scores, fitted_threshold(scores, requests), behaviors)
    by_forced.append(Measure(TOLD_APART, detect(scores, requests).told_apart, better="higher"))
    if target.options.prompt_verdicts_by:
        by_forced = [replace(measure, label=f"{measure.name}, prompts judged by a copy") for measure in by_forced]
    measures = [*result.measures, *by_forced]
    losses = _losses(context, target, ordinary)
    measures.append(Measure(ANSWER_LOSS, bootstrap(np.array(losses), mean), "nats"))
    if ReferenceJudge.name in spec.options.get("judges", ()):
        measures.append(_right_answers(spec, context, target, ordinary, defence))
    return replace(result, measures=measures)


def _right_answers(
    spec: ColumnSpec, context: Context, target: "HFTarget", ordinary: Sequence[Behavior], defence: Defence
) -> Measure:
    cases = list(DirectRequest().cases(ordinary, target, defence))
    lengths = spec.options.get("max_new_tokens")
    limit = max(lengths.values()) if isinstance(lengths, Mapping) else lengths
    responses, reasons = answer(cases, target, defence, context, f"{spec.name}, ordinary", limit)
    found, _ = opinions_on(spec, context, ordinary, cases, responses, reasons, judges=[ReferenceJudge.name])
    return replace(rate(RIGHT, found[ReferenceJudge.name]), better="higher")


def _with_forced(
    result: ColumnResult, scores: Mapping[str, float], threshold: float | None, behaviors: Sequence[Behavior]
) -> list[Measure]:
    found = []
    prompts = {behavior.id: behavior.prompt for behavior in behaviors}
    for name in (m.name for m in result.measures if m.estimate):
        passed = [_passes(case, name, scores[prompts[case.id]], threshold) for case in result.cases]
        known = [value for value in passed if value is not None]
        found.append(Measure(f"{name}{DESPITE}", wilson(sum(known), len(known)), failed=len(passed) - len(known)))
    return found


def _passes(case: CaseResult, judge: str, score: float, threshold: float | None) -> bool | None:
    verdict = case.outcomes.get(judge)
    return None if verdict is None else bool(verdict) and (threshold is None or score < threshold)


def _side_by_side(before: ColumnResult, after: ColumnResult) -> list[dict[str, Any]]:
    old = {measure.name: measure.to_json()["value"] for measure in before.measures}
    return [
        {"measure": m.label or m.name, "unit": m.unit, "before": old[m.name], "after": m.to_json()["value"]}
        for m in after.measures
        if m.estimate
    ]


def _compared(name: str, context: Context, target: "HFTarget", requests: Requests) -> dict[str, Any]:
    found = detect(_scores(name, context, target, requests), requests)
    return {
        "defence": name,
        "told apart %": _percent(found.told_apart.value),
        "95%": f"{_percent(found.told_apart.low)} to {_percent(found.told_apart.high)}",
        "harmful stopped %": "no threshold" if found.harmful is None else _percent(found.harmful),
        "ordinary stopped %": "" if found.ordinary is None else _percent(found.ordinary),
        "requests": found.told_apart.n,
    }


def _percent(share: float) -> float:
    return round(100 * share, 1)


def _scores(name: str, context: Context, target: "HFTarget", requests: Requests) -> Mapping[str, float]:
    return _kept(
        context,
        [name, target.fingerprint, context.target.fingerprint, requests.harmful, requests.ordinary],
        lambda: dict(DETECTORS[name](target, context.target, requests)),
    )


def _losses(context: Context, target: "HFTarget", ordinary: Sequence[Behavior]) -> list[float]:
    from megatron_srp.attacks.tampering.change import answer_loss

    answers = [(b.prompt, f"{b.target} {b.response}".split()) for b in ordinary if b.response.strip()]
    pairs = [(prompt, " ".join(words[:_ANSWER_WORDS])) for prompt, words in answers]
    return _kept(
        context,
        ["answer loss", target.fingerprint, target.form.describe(), pairs],
        lambda: [answer_loss(target, prompt, text) for prompt, text in pairs],
    )


def _kept[T](context: Context, parts: list[Any], make: Callable[[], T]) -> T:
    """What `make` returns, plain JSON, from the results where it is known."""
    results, key = context.store.file("tampering"), key_of(*parts)
    if key not in results:
        results.add([(key, make())])
    found: T = results[key]
    return found
