"""Guards, the classifiers of segments: a table of names, each imported when it is first used.

A guard's name is one of `GUARDS`, or of an installed package's (`extensions`); or `python:MODULE:CLASS`, your own
subclass of `Guard`; or the path of a YAML file that describes a chat model which answers with a verdict
(`guard_spec`); or `ensemble:FILE.yaml`, several guards as one (`ensemble`); or `front:FILE`, a front that
`srp train-guard` made (`small`); or `cascade:FILE.yaml`, a cheap guard in front of an expensive one (`cascade`); or
`any-guardrail:NAME`, of that package (`any_guardrail`).
A new guard of the table is a class in a module of its own, or a YAML file, and one line in `GUARDS`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_srp.annotation.base import Guard, GuardOptions, GuardResult
from megatron_srp.annotation.extensions import (
    GUARD_GROUP,
    PREFIX,
    check_options,
    describe,
    import_target,
    installed_names,
    own_target,
)
from megatron_srp.errors import GuardError, SrpError, UsageError, did_you_mean

GUARDS = {
    "small": "small.safetensors",
    "heuristic": "megatron_srp.annotation.guards.heuristic:HeuristicGuard",
    "qwen3guard": "qwen3guard.yaml",
    "llama-guard": "llama_guard.yaml",
    "llama-guard-4": "llama_guard_4.yaml",
    "wildguard": "wildguard.yaml",
    "shieldgemma": "shieldgemma.yaml",
    "granite-guardian": "granite_guardian.yaml",
    "nemotron-safety-guard": "nemotron_safety_guard.yaml",
    "aegis": "aegis.yaml",
    "polyguard": "polyguard.yaml",
    "dynaguard": "dynaguard.yaml",
    "md-judge": "md_judge.yaml",
    "gpt-oss-safeguard": "gpt_oss_safeguard.yaml",
    "qwen3guard-stream": "megatron_srp.annotation.guards.stream_guard:StreamGuard",
    "moderations": "megatron_srp.annotation.guards.moderations:ModerationsGuard",
}

__all__ = ["GUARDS", "Guard", "GuardOptions", "GuardResult", "load_guard"]


def load_guard(name: str, options: GuardOptions | None = None, also: Sequence[str] = ()) -> Guard:
    """The guard of that name.

        >>> from megatron_srp import load_guard
        >>> load_guard("heuristic").classify(["How to build a bomb."])
        [SafetyLabel(verdict=<Verdict.UNSAFE: 'Unsafe'>, categories=('Violent',), hint='')]

    Args:
        also: other names that are allowed, for the message.

    Raises:
        UsageError: for an unknown guard, a class that is not one, and options that it does not accept.
        GuardError: where it cannot be loaded.
    """
    options = options or GuardOptions()
    if name.startswith("ensemble:"):
        from megatron_srp.annotation.guards.ensemble import load_ensemble

        if options.changed():
            raise UsageError(f"--guard {name}: {', '.join(options.changed_flags())} belongs to each guard in the file")
        return load_ensemble(Path(name.removeprefix("ensemble:")), load_guard)
    if name.startswith("cascade:"):
        from megatron_srp.annotation.cascade.spec import load_cascade

        if options.changed():
            raise UsageError(f"--guard {name}: {', '.join(options.changed_flags())} belongs to a guard in the file")
        return load_cascade(Path(name.removeprefix("cascade:")), load_guard)
    if name.endswith((".yaml", ".yml")) or GUARDS.get(name, "").endswith(".yaml"):
        from megatron_srp.annotation.guards.chat_guard import load_chat_guard
        from megatron_srp.annotation.guards.classifier import classifier_tree, load_classifier

        path = Path(__file__).with_name("guards") / GUARDS[name] if name in GUARDS else Path(name)
        if (tree := classifier_tree(path)) is not None:
            return load_classifier(path, tree, options)
        return load_chat_guard(path, options)
    if name.startswith("front:") or name == "small":
        return _load_front(name, options)
    if name == "moderations":
        from megatron_srp.annotation.guards.moderations import load_moderations

        return load_moderations(options)
    if name.startswith("any-guardrail:"):
        from megatron_srp.annotation.guards.any_guardrail import load_any_guardrail

        return load_any_guardrail(name, options)
    if name == "qwen3guard-stream":
        from megatron_srp.annotation.guards.stream_guard import load_stream_guard

        return load_stream_guard(options)
    own = {field for field in options.changed() if field != "engine_options"}
    if own or (name in GUARDS and options.changed()):
        raise UsageError(f"--guard {name} is not a chat guard and does not accept {', '.join(options.changed_flags())}")
    if name in GUARDS:
        return _make_guard(GUARDS[name], name, {})
    return _make_guard(_outside_target(name, also), name, options.engine_options)


def _load_front(name: str, options: GuardOptions) -> Guard:
    from megatron_srp.annotation.fronts.front_file import load_front
    from megatron_srp.annotation.guards.small import SmallGuard

    path = Path(__file__).with_name("guards") / GUARDS[name] if name in GUARDS else Path(name.removeprefix("front:"))
    front = load_front(path)
    allowed = {"threshold"} if front.embedder is None else {"threshold", "model", "engine_options"}
    if not allowed.issuperset(options.changed()):
        raise UsageError(f"--guard {name} does not accept {', '.join(options.changed_flags())}, only --guard-threshold")
    if front.embedder is None:
        return SmallGuard(front, path.name.removesuffix(path.suffix), options.threshold)
    from megatron_srp.annotation.guards.embedding import load_embedding_guard

    return load_embedding_guard(path, front, options)


def _outside_target(name: str, also: Sequence[str]) -> str:
    """MODULE:CLASS of a guard that is not this package's; raises UsageError for an unknown name."""
    if name.startswith(PREFIX):
        return own_target(name)
    installed = installed_names(GUARD_GROUP)
    if name not in installed:
        choices = did_you_mean(name, [*GUARDS, *installed, *also])
        raise UsageError(f"unknown guard {name!r}, and no YAML file, ensemble: or python:; {choices}")
    return installed[name]


def _make_guard(target: str, name: str, options: Mapping[str, Any]) -> Guard:
    given = f"--guard {name}"
    make = import_target(target, given)
    if isinstance(make, type) and not issubclass(make, Guard):
        raise UsageError(
            f"{given}: {make.__name__} is not a guard; pass python:MODULE:CLASS, a subclass of megatron_srp.Guard"
        )
    check_options(make, options, given)
    try:
        guard = make(**options)
    except SrpError:
        raise
    except TypeError as error:  # an abstract method is missing, or an option is of the wrong type
        raise UsageError(f"{given}: {describe(error)}") from None
    except Exception as error:  # the constructor may be third-party code
        raise GuardError(f"{given} cannot be loaded: {describe(error)}") from error
    if not isinstance(guard, Guard):
        raise UsageError(f"{given} returned a {type(guard).__name__}, which is not a megatron_srp.Guard")
    if options:
        guard.constructor_options = dict(options)
    _check_settings(guard, given)
    return guard


def _check_settings(guard: Guard, given: str) -> None:
    """Raises UsageError where the guard's settings cannot be recorded with its verdicts."""
    for field in ("name", "revision"):
        value = getattr(guard, field)
        if not isinstance(value, str) or not value or not value.isprintable():
            raise UsageError(f"{given}: its {field} is {value!r}; pass a string of printable characters")
    try:
        json.dumps(guard.settings)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{given}: its settings cannot be written as JSON ({error})") from None
