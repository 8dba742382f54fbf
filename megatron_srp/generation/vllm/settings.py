"""The operator's settings, from the environment: it is all that each of vLLM's processes, and each part, can read."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec

from megatron_srp.errors import UsageError
from megatron_srp.generation.guard.policy import DEFAULT_REFUSAL, ON_UNSAFE, GuardPolicy
from megatron_srp.generation.server.api import GuardOptions
from megatron_srp.generation.server.client_policy import PolicyTooWeak, policy_of
from megatron_srp.reflection import DEFAULT_STOP_AFTER
from megatron_srp.schema import Verdict

VARIABLE = "SRP_GUARD"
PREFIX = "srp_"  # of a request's own settings in `vllm_xargs`
# A forced reflection is part of the text here, so another interval gives another answer, not a shorter one.
OPERATORS_ONLY = ("reflect_every", "reflect_prompt")


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The fields of SRP_GUARD, named as the flags of `srp serve`. The model's own description decides those left out.

    Attributes:
        completions: whether /v1/completions is open, where a client may write the beginning of an answer.
    """

    on_unsafe: str = "stop"
    stop_at: tuple[Literal["Controversial", "Unsafe"], ...] | None = None
    refusal: str = DEFAULT_REFUSAL
    reflect_every: int = 0
    reflect_prompt: bool = False
    unsafe_threshold: float | None = None
    reflection_tokens: Literal["text", "special"] | None = None
    completions: bool = False

    def policy(self, stop_at: Iterable[Verdict] = DEFAULT_STOP_AFTER, threshold: float = 1.0) -> GuardPolicy:
        """The operator's policy; raises UsageError for a value that is not allowed.

        Args:
            stop_at, threshold: the model's own.
        """
        return GuardPolicy(
            self.on_unsafe,
            frozenset(map(Verdict, self.stop_at) if self.stop_at else stop_at),
            self.refusal,
            self.reflect_every,
            self.reflect_prompt,
            threshold if self.unsafe_threshold is None else self.unsafe_threshold,
        )


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings | None:
    """What SRP_GUARD says, a JSON object that may be empty; None where it is not set.

    Raises:
        UsageError: for a field or value that is not allowed.
    """
    text = environment.get(VARIABLE)
    if text is None:
        return None
    try:
        found = msgspec.json.decode(text, type=Settings)
    except msgspec.DecodeError as error:
        allowed = ", ".join(Settings.__struct_fields__)
        raise UsageError(f"{VARIABLE}={text}: {error}; pass a JSON object with any of {allowed}") from None
    found.policy()
    return found


def requests_policy(own: GuardPolicy, asked: GuardOptions) -> GuardPolicy:
    """The operator's policy with a request's changes, which can only make it stricter.

    Raises:
        PolicyTooWeak: when they would weaken it, or concern what only the operator sets here.
    """
    for name in OPERATORS_ONLY:
        if getattr(asked, name) not in (None, getattr(own, name)):
            raise PolicyTooWeak(f"guard.{name}: only the operator sets it on this server; leave it out")
    return policy_of(own, asked, allow_weaker=False)


def strictest(own: GuardPolicy, asked: GuardOptions) -> GuardPolicy:
    """The operator's policy, with a request's changes where they are stricter."""
    return replace(
        own,
        on_unsafe=max(own.on_unsafe, asked.on_unsafe or own.on_unsafe, key=ON_UNSAFE.index),
        stop_at=own.stop_at | frozenset(map(Verdict, asked.stop_at or ())),
        unsafe_threshold=min(own.unsafe_threshold, asked.unsafe_threshold or 1.0),
    )


def to_arguments(asked: GuardOptions) -> dict[str, Any]:
    """A request's own settings as `vllm_xargs`."""
    found: dict[str, Any] = {"on_unsafe": asked.on_unsafe, "unsafe_threshold": asked.unsafe_threshold}
    found["stop_at"] = ",".join(asked.stop_at) if asked.stop_at else None
    return {f"{PREFIX}{name}": value for name, value in found.items() if value is not None}


def from_arguments(arguments: Mapping[str, Any] | None) -> GuardOptions:
    """The inverse; arguments of others are passed over.

    Raises:
        ValueError: for a name or value that is not allowed.
    """
    given = {k.removeprefix(PREFIX): v for k, v in (arguments or {}).items() if k.startswith(PREFIX)}
    if isinstance(given.get("stop_at"), str):
        given["stop_at"] = given["stop_at"].split(",")
    try:
        return msgspec.convert(given, GuardOptions)
    except msgspec.ValidationError as error:
        raise ValueError(f"vllm_xargs, {PREFIX}...: {error}") from None
