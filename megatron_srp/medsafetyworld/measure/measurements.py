"""From answers to figures: what `evaluate` describes, for anything that answers."""

from collections.abc import Callable, Sequence
from typing import Any

from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.medsafetyworld.measure import thresholds
from megatron_srp.medsafetyworld.measure.attacks import ATTACKS, DIRECT, FAMILIES
from megatron_srp.medsafetyworld.measure.questions import Names, Question, TestSet, chance
from megatron_srp.medsafetyworld.measure.samples import pick_samples
from megatron_srp.medsafetyworld.measure.scoring import Answer, Score, score, score_completion
from megatron_srp.medsafetyworld.world.queries import CLASSES, HARMFUL
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.statistics.over_seeds import share

THRESHOLD = GuardPolicy().unsafe_threshold
Chat = Callable[[Sequence[Question], Callable[[Question, ReflectionFormat], str]], list[Answer]]


def measure(
    test: TestSet, go_on: Callable[[Sequence[Question]], list[Answer]], chat: Chat | None, seed: int = 0
) -> dict[str, Any]:
    """The measurements of anything that answers: it continues texts (`go_on`), and chats with a prefill (`chat`)."""
    texts = go_on(test.completions)
    kept = [(q, a, score_completion(q, a, test.names)) for q, a in zip(test.completions, texts, strict=True)]
    found: dict[str, Any] = {"latent": _latent(kept, test.names)}
    if chat is None:
        return found | {"samples": pick_samples({"pretraining text": kept}, seed)}
    asked = _scored(test, test.questions, chat(test.questions, DIRECT.prefill))
    harmful = [row for row in asked if row[0].harmful]
    attacked = {DIRECT.name: harmful} | {
        attack.name: _scored(test, test.of_class(HARMFUL), chat(test.of_class(HARMFUL), attack.prefill))
        for attack in ATTACKS
        if attack is not DIRECT
    }
    attacks = {a.name: {"family": a.family, "says": a.says, **_attack(attacked[a.name])} for a in ATTACKS}
    benign = [row for row in asked if not row[0].harmful]
    by_class = {name: [row for row in asked if row[0].name == name] for name in CLASSES}
    read = {name: rows for name, rows in by_class.items() if name != HARMFUL} | attacked
    return found | {
        "general": _benign(benign),
        "by_class": {name: _benign(rows) for name, rows in by_class.items()},
        "attacks": attacks,
        "strongest": {family: _strongest(attacks, family) for family in FAMILIES},
        "forced": {
            "prompt": _forced(attacked, benign, lambda answer: answer.prompt_risk),
            "answer": _forced(attacked, benign, lambda answer: answer.answer_risk),
        },
        "samples": pick_samples({"pretraining text": kept} | read, seed),
    }


Row = tuple[Question, Answer, Score]
Risk = Callable[[Answer], float | None]


def _scored(test: TestSet, questions: Sequence[Question], answers: Sequence[Answer]) -> list[Row]:
    return [(q, a, score(q, a, test.names)) for q, a in zip(questions, answers, strict=True)]


def _share(rows: Sequence[Row], holds: Callable[[Row], bool]) -> dict[str, Any]:
    return share([holds(row) for row in rows], [row[0].subject for row in rows])


def _shares(rows: Sequence[Row], *names: str) -> dict[str, Any]:
    return {name: _share(rows, lambda row, name=name: getattr(row[2], name)) for name in names}  # type: ignore[misc]


def _latent(rows: list[Row], names: Names) -> dict[str, Any]:
    found = {}
    for name in CLASSES:
        of_class = [row for row in rows if row[0].name == name]
        luck = [chance(row[0], names) for row in of_class]
        found[name] = _shares(of_class, "stated", "exact") | {
            "chance": round(100 * sum(luck) / len(luck), 3) if luck else None
        }
    return found


def _benign(rows: list[Row]) -> dict[str, Any]:
    return _shares(rows, "useful", "exact", "stated", "wrong", "flagged", "refused")


def _attack(rows: list[Row]) -> dict[str, Any]:
    return _shares(rows, "published", "strict", "flagged", "refused")


def _strongest(attacks: dict[str, dict[str, Any]], family: str) -> dict[str, Any]:
    """The largest share of a family's attacks by each way of scoring, and which attack that is."""
    names = [name for name, attack in attacks.items() if attack["family"] == family]
    found = {}
    for scoring in ("published", "strict"):
        by_name = {name: attacks[name][scoring].get("percent", 0.0) for name in names}
        name = max(names, key=by_name.__getitem__)
        found[scoring] = {"name": name, **attacks[name][scoring]}
    return found


def _forced(
    attacked: dict[str, list[Row]], benign: list[Row], risk: Callable[[Answer], float | None]
) -> dict[str, Any]:
    """What forced reflections stop. An answer without a reading is not stopped."""

    def readings(rows: list[Row]) -> list[thresholds.Reading]:
        return [(row[0].subject, risk(row[1]) or 0.0) for row in rows]

    def passes(row: Row) -> bool:
        return (risk(row[1]) or 0.0) < THRESHOLD

    attack = attacked["The"]
    harmful, harmless = readings(attack), readings(benign)
    return {
        "curve": thresholds.curve([p for _, p in harmful], [p for _, p in harmless]) if harmful and harmless else [],
        "chosen": thresholds.choose_and_check(harmful, harmless),
        "threshold": THRESHOLD,
        "harmful": _share(attack, lambda row: not passes(row)),
        "benign": _share(benign, lambda row: not passes(row)),
        "general": _share(benign, lambda row: passes(row) and row[2].useful),
        "attacks": {
            name: {
                "published": _share(rows, lambda row: passes(row) and row[2].published),
                "strict": _share(rows, lambda row: passes(row) and row[2].strict),
            }
            for name, rows in attacked.items()
        },
    }
