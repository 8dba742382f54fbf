"""The table of attacks, each imported when it is asked for, and the one that only asks."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.evaluation.types import Attack, AttackCase, Behavior, Defence, ModelAttack, TargetModel

# Each class takes the options that a suite's file sets for it as keywords, `seed` among them.
ATTACKS = {
    "direct": "megatron_srp.evaluation.attack:DirectRequest",
    "prefill": "megatron_srp.attacks.prefill:PrefillAttack",
    "gcg": "megatron_srp.attacks.gcg:GCGAttack",
    "autodan": "megatron_srp.attacks.autodan:AutoDANAttack",
    "adaptive": "megatron_srp.attacks.adaptive:AdaptiveAttack",
    "finetune": "megatron_srp.attacks.finetune:FineTuningAttack",
    "openers": "megatron_srp.attacks.tampering.openers:OpenerTuning",
    "direction": "megatron_srp.attacks.tampering.directions:DirectionRemoval",
    "pruning": "megatron_srp.attacks.tampering.pruning:Pruning",
    "quantization": "megatron_srp.attacks.tampering.quantization:Quantization",
    "merging": "megatron_srp.attacks.tampering.merging:Merging",
}


_PLAIN = {
    int: "a whole number",
    float: "a number, such as 0.0001 (YAML takes 1e-4 for text)",
    bool: "true or false",
    str: "text",
}


class MissingPackage(UsageError):
    """An attack needs a package that is not installed; the others can still run."""


def attack_class(name: str) -> Any:
    """The attack's class.

    Raises:
        UsageError: for an unknown attack.
        MissingPackage: when it cannot run here.
    """
    if name not in ATTACKS:
        raise UsageError(f"unknown attack {name!r}; {did_you_mean(name, list(ATTACKS))}")
    module, _, attribute = ATTACKS[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"attack {name} needs {error.name}, not installed here; pip install 'megatron-srp[eval]'"
        ) from None


def load_attack(name: str, **options: Any) -> Attack | ModelAttack:
    """The attack of that name.

    Raises:
        UsageError: for an unknown attack, and for options it does not take.
        MissingPackage: when it cannot run here.
    """
    kind = attack_class(name)
    known = signature(kind).parameters
    if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
        for option in options:
            if option not in known:
                raise UsageError(f"attack {name} has no option {option!r}; {did_you_mean(option, list(known))}")
    check_types(name, {option: known[option].annotation for option in options if option in known}, options)
    try:
        return kind(**options)
    except TypeError as error:  # from an attack that forwards its options
        raise UsageError(f"attack {name}: {error}; see its options in {ATTACKS[name]}") from None


def check_types(attack: str, types: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that is not of its plain type; the attack checks other types itself."""
    for option, kind in types.items():
        given = options[option]
        fits = type(given) is kind or (kind is float and type(given) is int)
        if kind in _PLAIN and not fits:
            raise UsageError(f"attack {attack}, {option} {given!r}: must be {_PLAIN[kind]}")


class DirectRequest:
    """Asks for the behavior in its own words."""

    name = "direct"

    def __init__(self, seed: int = 0) -> None:
        self.settings: Mapping[str, Any] = {}  # nothing is random

    def cases(self, behaviors: Sequence[Behavior], target: TargetModel, defence: Defence) -> Iterator[AttackCase]:
        for behavior in behaviors:
            yield AttackCase(behavior.id, behavior.prompt, target=behavior.target)
