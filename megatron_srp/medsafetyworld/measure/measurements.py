"""From answers to figures: what `evaluate` describes, for anything that answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from megatron_srp.medsafetyworld.measure.attacks import DIRECT, Attack, attacks_on
from megatron_srp.medsafetyworld.measure.forced import Row, forced, share_of
from megatron_srp.medsafetyworld.measure.questions import Names, Question, TestSet, chance
from megatron_srp.medsafetyworld.measure.samples import pick_samples
from megatron_srp.medsafetyworld.measure.scoring import OUTCOMES, Answer, score, score_completion
from megatron_srp.medsafetyworld.world.queries import CLASSES, HARMFUL
from megatron_srp.reflection import ReflectionFormat

_NONE: Mapping[str, int] = {}
SAME_FORM = "reverse-safe"  # harmless questions that ask in the same words as harmful ones
Chat = Callable[[Sequence[Question], Attack], list[Answer]]
_FORM = ReflectionFormat()


def measure(
    test: TestSet,
    go_on: Callable[[Sequence[Question]], list[Answer]],
    chat: Chat | None,
    seed: int = 0,
    trained: Mapping[str, int] = _NONE,
    form: ReflectionFormat = _FORM,
) -> dict[str, Any]:
    """The measurements of anything that answers: it continues texts (`go_on`), and chats under an attack (`chat`);
    `trained` as for `evaluate_model`, and reflections in this form."""
    texts = go_on(test.completions)
    kept = [(q, a, score_completion(q, a, test.names)) for q, a in zip(test.completions, texts, strict=True)]
    found: dict[str, Any] = {"latent": _latent(kept, test.names)}
    if chat is None:
        return found | {"samples": pick_samples({"pretraining text": kept}, seed)}
    asked, tried_on = _scored(test, test.questions, chat(test.questions, DIRECT)), attacks_on(form)
    attacked = {attack.name: _attacked(test, attack, chat, asked) for attack in tried_on}
    attacks = {
        attack.name: _attack(attack, *attacked[attack.name], _as_tokens(trained, attack, form)) for attack in tried_on
    }
    tried = {name: harmful for name, (harmful, _) in attacked.items()}
    benign = [row for row in asked if not row[0].harmful]
    by_class = {name: [row for row in asked if row[0].name == name] for name in CLASSES}
    read = {name: rows for name, rows in by_class.items() if name != HARMFUL} | tried
    return found | {
        "general": _benign(benign),
        "by_class": {name: _benign(rows) for name, rows in by_class.items()},
        "attacks": attacks,
        "strongest": {family: _strongest(attacks, family) for family in {a.family: None for a in tried_on}},
        "forced": {
            "prompt": forced(tried, benign, lambda answer: answer.prompt_risk),
            "answer": forced(tried, benign, lambda answer: answer.answer_risk),
        },
        "samples": pick_samples({"pretraining text": kept} | read, seed),
    }


def _attacked(test: TestSet, attack: Attack, chat: Chat, asked: list[Row]) -> tuple[list[Row], list[Row]]:
    """The answers that an attack gets, to harmful questions and to harmless ones of the same form."""
    if attack is DIRECT:
        harmful, benign = ([row for row in asked if row[0].name == name] for name in (HARMFUL, SAME_FORM))
        return harmful, benign
    questions = [*test.of_class(HARMFUL), *test.of_class(SAME_FORM)]
    rows = _scored(test, questions, chat(questions, attack))
    return [row for row in rows if row[0].harmful], [row for row in rows if not row[0].harmful]


def _scored(test: TestSet, questions: Sequence[Question], answers: Sequence[Answer]) -> list[Row]:
    return [(q, a, score(q, a, test.names)) for q, a in zip(questions, answers, strict=True)]


def _shares(rows: Sequence[Row], *names: str) -> dict[str, Any]:
    return {name: share_of(rows, lambda row, name=name: getattr(row[2], name)) for name in names}  # type: ignore[misc]


def _latent(rows: list[Row], names: Names) -> dict[str, Any]:
    found = {}
    for name in CLASSES:
        of_class = [row for row in rows if row[0].name == name]
        luck = [chance(row[0], names) for row in of_class]
        found[name] = _shares(of_class, "stated", "exact") | {
            "chance": round(100 * sum(luck) / len(luck), 3) if luck else None,
            "told": share_of([row for row in of_class if row[0].told], lambda row: row[2].stated),
            "inferred": share_of([row for row in of_class if not row[0].told], lambda row: row[2].stated),
        }
    return found


def _benign(rows: list[Row]) -> dict[str, Any]:
    return _shares(rows, "useful", "exact", "stated", "wrong", "flagged", "refused")


def _as_tokens(trained: Mapping[str, int], attack: Attack, form: ReflectionFormat) -> Mapping[str, int]:
    return {words: count for words, count in trained.items() if attack.is_trained(words, form)}


def _attack(attack: Attack, harmful: list[Row], benign: list[Row], trained: Mapping[str, int]) -> dict[str, Any]:
    begun = {row[1].prefill for row in harmful}
    return {
        "family": attack.family,
        "says": attack.says,
        "trained": sum(trained.get(words, 0) for words in begun if words),
        **_shares(harmful, "published", "strict", "flagged", "refused"),
        "harmful": _outcomes(harmful),
        "benign": _outcomes(benign),
    }


def _outcomes(rows: list[Row]) -> dict[str, Any]:
    return {name: share_of(rows, lambda row, name=name: row[2].outcome == name) for name in OUTCOMES}  # type: ignore[misc]


def _strongest(attacks: dict[str, dict[str, Any]], family: str) -> dict[str, Any]:
    """The largest share of a family's attacks by each way of scoring, and which attack that is."""
    names = [name for name, attack in attacks.items() if attack["family"] == family]
    found = {}
    for scoring in ("published", "strict"):
        by_name = {name: attacks[name][scoring].get("percent", 0.0) for name in names}
        name = max(names, key=by_name.__getitem__)
        found[scoring] = {"name": name, **attacks[name][scoring]}
    return found
