"""What all attacks that search for a prompt have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from megatron_srp.attacks.likelihood import Continuation
from megatron_srp.attacks.objective import build_objective, check_objective
from megatron_srp.attacks.prefill import require_target
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.evaluation.attack import check_types
from megatron_srp.evaluation.types import AttackCase, Behavior, Defence, TargetModel

OnStep = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search.

    Attributes:
        prompt: what a user would send.
        loss: the objective's, for that prompt.
        losses: of each step, its best prompt's.
        reached: whether the model's most likely continuations are the objective's.
    """

    prompt: str
    loss: float
    losses: tuple[float, ...]
    reached: bool


class SearchAttack[Settings: Any](ABC):
    """Searches, for each behavior, for a prompt that makes an objective likely.

    Args:
        settings: of the search, a dataclass of plain values.
        objective: see `attacks.objective`; any but `plain` is for an attacker who knows the defence.

    Attributes:
        on_step: called with the number of steps made and the loss of the last, for a display of progress.
    """

    name: str

    def __init__(self, settings: Settings, objective: str) -> None:
        check_objective(objective)
        self._search_settings, self._objective = settings, objective
        self.settings: Mapping[str, Any] = {"objective": objective, **asdict(settings)}
        self.on_step: OnStep = lambda step, loss: None

    def cases(self, behaviors: Sequence[Behavior], target: TargetModel, defence: Defence) -> Iterator[AttackCase]:
        """One case for each behavior; raises InputError for one without a target."""
        box = WhiteBox.of(target, defence)
        for behavior in behaviors:
            objective = build_objective(self._objective, require_target(behavior), box)
            found = self.search(box, behavior.prompt, objective)
            facts = {"loss": found.loss, "losses": list(found.losses), "reached": found.reached}
            yield AttackCase(behavior.id, found.prompt, target=behavior.target, facts=facts)

    @abstractmethod
    def search(self, box: WhiteBox, request: str, objective: Sequence[Continuation]) -> Found:
        """The best prompt for one request."""


def settings_from[Settings: Any](kind: type[Settings], attack: str, options: dict[str, Any]) -> Settings:
    """A search's settings from a suite's options; raises UsageError for an unknown name, or a wrong type."""
    names = [each.name for each in fields(kind)]
    for name in options:
        if name not in names:
            raise UsageError(f"attack {attack} has no option {name!r}; {did_you_mean(name, names)}")
    check_types(attack, {each.name: each.type for each in fields(kind) if each.name in options}, options)
    return kind(**options)


def check_at_least_one(attack: str, settings: Any, *names: str) -> None:
    """Raises UsageError for a number below one."""
    for name in names:
        if getattr(settings, name) < 1:
            raise UsageError(f"attack {attack}, {name} {getattr(settings, name)}: must be at least 1")
