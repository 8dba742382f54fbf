"""The concepts of an evaluation: behaviors, cases, responses, judgements; targets and attacks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from megatron_srp.generation.guard.policy import ForcedReflection
from megatron_srp.schema import SafetyLabel


@dataclass(frozen=True, slots=True)
class Behavior:
    """What a user asks of a model.

    Attributes:
        id: unique in its data set, and the same in every run.
        prompt: the request, as the data set words it.
        target: the beginning of the answer that an attacker wants ("" where the data set has none).
        harmful: whether the request is harmful; False for those that a model should answer.
        category: the data set's own kind.
        response: an answer that the data set has: a reference, or one to classify.
        completion: a text that a base model continues to comply ("" where the data set has none).
    """

    id: str
    prompt: str
    target: str = ""
    harmful: bool = True
    category: str = ""
    response: str = ""
    completion: str = ""


@dataclass(frozen=True, slots=True)
class AttackCase:
    """The target's input for one behavior.

    Attributes:
        behavior_id: of the behavior.
        prompt: what the user says, with whatever the attack has added.
        prefill: the beginning of the answer, before the model's own tokens; not part of its response.
        target: as in `Behavior`.
        as_ids: whether the prefill reaches the model as token ids, past all escaping, as where an API takes ids or
            where somebody runs the weights.
        facts: what the attack has to report, such as losses and the number of steps: plain JSON.
    """

    behavior_id: str
    prompt: str
    prefill: str = ""
    target: str = ""
    as_ids: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


class Defence(StrEnum):
    """How the target is deployed.

    UNGUARDED is the bare model: nothing acts on reflections, and text that looks like a reflection or a
    special token reaches the tokenizer as it is. GUARDED runs under the project's guard, which acts on
    reflections and lets no user forge one.
    """

    UNGUARDED = "unguarded"
    GUARDED = "guarded"


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        text: as the reader sees it: without reflections, cut where the guard stopped.
        raw: all that the model wrote, reflections included; not the prefill.
        reflections: labels that the model wrote, in order.
        stop_reason: `eos`: the model ended it; `unsafe`: the guard did; `length`: the token limit did.
        tokens: ids that the model wrote, hidden ones and the end-of-text included.
        forced: what forced reflections read.
        seconds: of generation: the batch's, divided by its size.
    """

    text: str
    raw: str
    reflections: tuple[SafetyLabel, ...]
    stop_reason: str
    tokens: tuple[int, ...]
    forced: tuple[ForcedReflection, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What judges say about a response.

    Attributes:
        verdicts: by judge, whether the answer is what was asked for: for an attack, jailbroken. None where
            that judge has no verdict.
        failures: by judge, why it has no verdict.
    """

    case: AttackCase
    response: Response
    verdicts: Mapping[str, bool | None]
    failures: Mapping[str, str] = field(default_factory=dict)


class TargetModel(Protocol):
    """The model under test, as deployed.

    Attributes:
        name: for people.
        fingerprint: of weights and tokenizer; part of every kept result's key, as `settings` are.
    """

    name: str
    fingerprint: str

    def settings(self, defence: Defence) -> dict[str, Any]:
        """All that an answer under that defence depends on besides the weights, as plain JSON."""

    def generate(
        self, cases: Sequence[AttackCase], defence: Defence, max_new_tokens: int | None = None
    ) -> list[Response]:
        """The answers, in order; greedy, so that they are the same in every run.

        Args:
            max_new_tokens: the target's own limit by default.

        Raises:
            InputError: for a case that leaves no room for an answer.
        """


class Attack(Protocol):
    """Turns behaviors into cases.

    Attributes:
        name: as in the suites' files.
        settings: all that its cases depend on besides the target, as plain JSON; the seed among them.
    """

    name: str
    settings: Mapping[str, Any]

    def cases(self, behaviors: Sequence[Behavior], target: TargetModel, defence: Defence) -> Iterator[AttackCase]:
        """One case for each behavior, in order, each as soon as it is found.

        A case depends on its behavior, the target, the defence and `settings` alone: not on the other
        behaviors, so that a stopped run can be resumed with those that are left.
        """


@runtime_checkable
class Searching(Protocol):
    """An attack that searches for minutes: it reports each step made, and its loss."""

    on_step: Callable[[int, float], None]


class ModelAttack(Protocol):
    """Changes the model itself, as fine-tuning does. `name` and `settings` as in `Attack`; `on_step` is called with the
    steps made and their number."""

    name: str
    settings: Mapping[str, Any]
    on_step: Callable[[int, int], None]

    def attack(self, model: Path, folder: Path) -> Path:
        """Write the changed model to `folder` and return it; finished parts are not made again."""
