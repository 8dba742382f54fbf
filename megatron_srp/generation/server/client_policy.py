"""A request's own policy: the operator's, made stricter. It may be weaker only if the operator allows it."""

from dataclasses import replace
from typing import Any

from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.server.api import GuardOptions
from megatron_srp.schema import Verdict

_ALSO = {"reflect_every": " or a divisor of it"}


class PolicyTooWeak(Exception):
    """A request asks for a weaker guard than the operator has set."""


def policy_of(own: GuardPolicy, asked: GuardOptions, allow_weaker: bool) -> GuardPolicy:
    """The operator's policy with a request's changes.

    Raises:
        PolicyTooWeak: when that would be weaker in any respect, and `allow_weaker` is false.
    """
    names = ("on_unsafe", "reflect_every", "reflect_prompt", "unsafe_threshold")
    changes: dict[str, Any] = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    if asked.stop_at is not None:
        changes["stop_at"] = frozenset(Verdict(name) for name in asked.stop_at)
    policy = replace(own, **changes)
    weaker = policy.weaker_than(own)
    if weaker and not allow_weaker:
        given = ", ".join(
            f"{name} {_shown(getattr(policy, name))} (here: {_shown(getattr(own, name))}{_ALSO.get(name, '')})"
            for name in weaker
        )
        raise PolicyTooWeak(f"the guard of this server can only be made stricter; these are weaker: {given}")
    return policy


def _shown(value: Any) -> str:
    return "+".join(sorted(value)) if isinstance(value, frozenset) else str(value)
