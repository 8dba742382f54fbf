"""The table of attacks, each imported when it is asked for, and the one that only asks."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.evaluation.types import Attack, AttackCase, Behavior, Defence, ModelAttack, TargetModel

# Each class takes the options that a suite's file gives for it as keywords, `seed` among them.
ATTACKS = {
    "direct": "megatron_srp.evaluation.attack:DirectRequest",
    "prefill": "megatron_srp.attacks.prefill:PrefillAttack",
    "gcg": "megatron_srp.attacks.gcg:GCGAttack",
    "autodan": "megatron_srp.attacks.autodan:AutoDANAttack",
    "adaptive": "megatron_srp.attacks.adaptive:AdaptiveAttack",
    "finetune": "megatron_srp.attacks.finetune:FineTuningAttack",
}


def load_attack(name: str, **options: Any) -> Attack | ModelAttack:
    """The attack of that name; raises UsageError for one that is unknown or misses a package."""
    if name not in ATTACKS:
        raise UsageError(f"unknown attack {name!r}; {did_you_mean(name, list(ATTACKS))}")
    module, _, attribute = ATTACKS[name].partition(":")
    try:
        kind = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"attack {name} needs {error.name}, not installed here; pip install 'megatron-srp[eval]'"
        ) from None
    return kind(**options)


class DirectRequest:
    """Asks for the behavior in its own words."""

    name = "direct"

    def __init__(self, seed: int = 0) -> None:
        self.settings: Mapping[str, Any] = {}  # nothing is drawn

    def cases(self, behaviors: Sequence[Behavior], target: TargetModel, defence: Defence) -> Iterator[AttackCase]:
        for behavior in behaviors:
            yield AttackCase(behavior.id, behavior.prompt, target=behavior.target)
