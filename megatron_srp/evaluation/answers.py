"""Cases of an attack and the target's answers to them: made where they are missing, a group at a time."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import batched
from typing import Any

from megatron_srp.errors import InputError
from megatron_srp.evaluation.column import Context, NotRun
from megatron_srp.evaluation.results import key_of
from megatron_srp.evaluation.types import Attack, AttackCase, Behavior, Defence, Response, Searching, TargetModel
from megatron_srp.generation.guard.policy import ForcedReflection
from megatron_srp.schema import SafetyLabel, Verdict

_GROUP = 4  # batches that are kept together


def attack_cases(
    attack: Attack, behaviors: Sequence[Behavior], target: TargetModel, defence: Defence, context: Context
) -> tuple[list[AttackCase | None], list[str]]:
    """One case for each behavior, or why it is missing. What an attack found is kept behavior by behavior.

    Raises:
        NotRun: when no behavior has a case.
    """
    results = context.store.file("cases")
    keys = [
        key_of(attack.name, attack.settings, asdict(behavior), target.fingerprint, target.settings(defence))
        for behavior in behaviors
    ]
    missing = [i for i, key in enumerate(keys) if key not in results]
    reasons = [""] * len(behaviors)
    context.progress.step(f"{attack.name} ({defence})", len(missing))
    if isinstance(attack, Searching):
        attack.on_step = lambda step, loss: context.progress.note(f"step {step}, loss {loss:.3f}")
    while missing:
        try:
            found = attack.cases([behaviors[i] for i in missing], target, defence)
            for case in found:
                results.add([(keys[missing.pop(0)], asdict(case) | {"facts": dict(case.facts)})])
                context.progress.advance()
            break
        except InputError as error:  # of this behavior; the next ones are still tried
            reasons[missing.pop(0)] = str(error)
            context.progress.advance()
    if behaviors and all(reasons):
        raise NotRun(reasons[0])
    return [None if reason else AttackCase(**results[key]) for key, reason in zip(keys, reasons, strict=True)], reasons


def answer(
    cases: Sequence[AttackCase],
    target: TargetModel,
    defence: Defence,
    context: Context,
    name: str,
    max_new_tokens: int | None = None,
) -> tuple[list[Response | None], list[str]]:
    """The target's answers, or why one is missing (a prompt that the model cannot take)."""
    results = context.store.file("responses")
    settings = target.settings(defence)
    keys = [
        key_of(target.fingerprint, settings, max_new_tokens, case.prompt, case.prefill, *["ids"] * case.as_ids)
        for case in cases
    ]
    missing = list({key: i for i, key in reversed(list(enumerate(keys))) if key not in results}.values())
    missing.sort(key=lambda i: len(cases[i].prompt))  # answers of similar length are batched together
    context.progress.step(name, len(missing))
    for rows in batched(missing, _GROUP * getattr(target, "batch_size", 1)):
        made = _generate([cases[i] for i in rows], target, defence, max_new_tokens)
        results.add((keys[i], value) for i, value in zip(rows, made, strict=True))
        context.progress.advance(len(rows))
    values = [results[key] for key in keys]
    return [None if "failure" in v else response_of(v) for v in values], [v.get("failure", "") for v in values]


def _generate(
    cases: Sequence[AttackCase], target: TargetModel, defence: Defence, max_new_tokens: int | None
) -> list[dict[str, Any]]:
    try:
        return [to_json(response) for response in target.generate(cases, defence, max_new_tokens)]
    except InputError as error:
        if len(cases) == 1:
            return [{"failure": str(error)}]
    return [value for case in cases for value in _generate([case], target, defence, max_new_tokens)]


def to_json(response: Response) -> dict[str, Any]:
    labels = [[label.verdict, list(label.categories)] for label in response.reflections]
    forced = [list(reflection) for reflection in response.forced]
    return {name: getattr(response, name) for name in response.__slots__} | {
        "reflections": labels,
        "forced": forced,
        "tokens": list(response.tokens),
        "seconds": round(response.seconds, 6),
    }


def response_of(value: dict[str, Any]) -> Response:
    labels = tuple(SafetyLabel(Verdict(verdict), tuple(categories)) for verdict, categories in value["reflections"])
    forced = tuple(ForcedReflection(*reflection) for reflection in value["forced"])
    return Response(**value | {"reflections": labels, "forced": forced, "tokens": tuple(value["tokens"])})
