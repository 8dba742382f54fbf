"""Guards, the classifiers that judge segments. A table of names, each imported when it is asked for.

A new guard is a class in a module of its own and one line in `GUARDS`.
"""

from importlib import import_module

from megatron_srp.annotation.base import SafetyClassifier
from megatron_srp.errors import UsageError, did_you_mean

GUARDS = {"heuristic": "megatron_srp.annotation.heuristic:HeuristicGuard"}

__all__ = ["GUARDS", "SafetyClassifier", "load_guard"]


def load_guard(name: str) -> SafetyClassifier:
    """The guard of that name; raises UsageError for an unknown one."""
    if name not in GUARDS:
        raise UsageError(f"unknown guard {name!r}; {did_you_mean(name, [*GUARDS, 'none'])}")
    module, _, attribute = GUARDS[name].partition(":")
    return getattr(import_module(module), attribute)()
