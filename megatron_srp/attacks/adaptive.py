"""Attacks by someone who knows the defence: a separate column in the tables.

method gcg or autodan   the search makes reflections say Safe, as well as the target (`attacks.objective`)
method prefill          the answer begins with a reflection that somebody else wrote (`kind` of `attacks.prefill`)
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from megatron_srp.attacks.autodan import AutoDANAttack
from megatron_srp.attacks.gcg import GCGAttack
from megatron_srp.attacks.objective import OBJECTIVES
from megatron_srp.attacks.prefill import PrefillAttack
from megatron_srp.attacks.search import OnStep, SearchAttack
from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.evaluation.types import Attack, AttackCase, Behavior, Defence, TargetModel

_SEARCHES = {"gcg": GCGAttack, "autodan": AutoDANAttack}


class AdaptiveAttack:
    """An attack of the suite, aimed at the reflections as well.

    Args:
        method: gcg, autodan or prefill.
        objective: of a search, `suppress` or `forge`.
        options: of the method.
    """

    name = "adaptive"

    def __init__(self, method: str = "gcg", objective: str = "suppress", **options: Any) -> None:
        if method not in ("prefill", *_SEARCHES):
            raise UsageError(f"adaptive attack by {method!r}; {did_you_mean(method, ['prefill', *_SEARCHES])}")
        if objective not in OBJECTIVES[1:]:
            raise UsageError(f"adaptive objective {objective!r}; {did_you_mean(objective, list(OBJECTIVES[1:]))}")
        self.attack: Attack = (
            PrefillAttack(**{"kind": "forged"} | options)
            if method == "prefill"
            else _SEARCHES[method](objective=objective, **options)
        )
        self.settings: Mapping[str, Any] = {"method": method, **self.attack.settings}

    @property
    def on_step(self) -> OnStep | None:
        """The search's, see `SearchAttack`."""
        return self.attack.on_step if isinstance(self.attack, SearchAttack) else None

    @on_step.setter
    def on_step(self, tell: OnStep) -> None:
        if isinstance(self.attack, SearchAttack):
            self.attack.on_step = tell

    def cases(self, behaviors: Sequence[Behavior], target: TargetModel, defence: Defence) -> Iterator[AttackCase]:
        """Those of the method."""
        return self.attack.cases(behaviors, target, defence)
