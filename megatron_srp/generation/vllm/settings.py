"""The operator's settings, from the environment: it is all that each of vLLM's processes, and each part, can read."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from megatron_srp.errors import UsageError
from megatron_srp.generation.guard.policy import DEFAULT_REFUSAL, GuardPolicy
from megatron_srp.generation.server.api import GuardOptions
from megatron_srp.generation.server.client_policy import PolicyTooWeak, policy_of
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import Verdict

VARIABLE = "SRP_GUARD"
PREFIX = "srp_"  # of a request's own settings in `vllm_xargs`
# A forced reflection is part of the text here, so another interval gives another answer, not a shorter one.
OPERATORS_ONLY = ("reflect_every", "reflect_prompt")


class _Given(msgspec.Struct, forbid_unknown_fields=True):
    on_unsafe: str = "stop"
    stop_at: tuple[Literal["Controversial", "Unsafe"], ...] = ("Controversial", "Unsafe")
    refusal: str = DEFAULT_REFUSAL
    reflect_every: int = 0
    reflect_prompt: bool = False
    unsafe_threshold: float = 0.5
    reflection_tokens: Literal["text", "special"] = "text"
    hints: bool = False
    completions: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's settings.

    Attributes:
        completions: whether /v1/completions is open, where a client may write the beginning of an answer.
    """

    policy: GuardPolicy
    form: ReflectionFormat
    completions: bool = False


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings | None:
    """What SRP_GUARD says, a JSON object that may be empty; None where it is not set.

    Raises:
        UsageError: for a field or value that is not allowed.
    """
    text = environment.get(VARIABLE)
    if text is None:
        return None
    try:
        given = msgspec.json.decode(text, type=_Given)
    except msgspec.DecodeError as error:
        allowed = ", ".join(_Given.__struct_fields__)
        raise UsageError(f"{VARIABLE}={text}: {error}; pass a JSON object with any of {allowed}") from None
    policy = GuardPolicy(
        given.on_unsafe,
        frozenset(map(Verdict, given.stop_at)),
        given.refusal,
        given.reflect_every,
        given.reflect_prompt,
        given.unsafe_threshold,
    )
    form = ReflectionFormat(special_tokens=given.reflection_tokens == "special", hints=given.hints)
    return Settings(policy, form, given.completions)


def requests_policy(own: GuardPolicy, asked: GuardOptions) -> GuardPolicy:
    """The operator's policy with a request's changes, which can only make it stricter.

    Raises:
        PolicyTooWeak: when they would weaken it, or concern what only the operator sets here.
    """
    for name in OPERATORS_ONLY:
        if getattr(asked, name) not in (None, getattr(own, name)):
            raise PolicyTooWeak(f"guard.{name}: only the operator sets it on this server; leave it out")
    return policy_of(own, asked, allow_weaker=False)


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
