"""Classes from outside the package: named by an entry point of an installed package, or as python:MODULE:CLASS.

A package offers a guard, or an engine, in its pyproject.toml:

    [project.entry-points."megatron_srp.guards"]
    my-guard = "my_package.guards:MyGuard"
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from megatron_srp.errors import UsageError, did_you_mean

PREFIX = "python:"
GUARD_GROUP, ENGINE_GROUP = "megatron_srp.guards", "megatron_srp.engines"


def installed_names(group: str) -> dict[str, str]:
    """The entry points of a group: name to MODULE:CLASS."""
    return {entry.name: entry.value for entry in entry_points(group=group)}


def own_target(name: str) -> str:
    """MODULE:CLASS of python:MODULE:CLASS. The module may be in the current folder, which is not on a console
    script's path."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return name.removeprefix(PREFIX)


def import_target(target: str, given: str) -> Callable[..., Any]:
    """The object that `target`, MODULE:CLASS, names.

    Args:
        given: the flag and its value, for the message.

    Raises:
        UsageError: when the module cannot be imported, or has nothing callable of that name.
    """
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise UsageError(f"{given}: pass python:MODULE:CLASS")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # the module may be third-party code
        raise UsageError(
            f"{given}: {describe(error)}; pass python:MODULE:CLASS, with the module in this folder or on PYTHONPATH"
        ) from None
    if not callable(found):
        raise UsageError(f"{given}: {attribute} is {type(found).__name__}; pass python:MODULE:CLASS")
    return found


def check_options(kind: Callable[..., Any], options: Mapping[str, Any], given: str, skip: int = 0) -> None:
    """Raise UsageError for an option that the constructor does not take; its first `skip` arguments are not options."""
    parameters = list(signature(kind).parameters.values())[skip:]
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters if parameter.kind is not Parameter.VAR_POSITIONAL]
    for option in options:
        if option not in known:
            advice = did_you_mean(option, known) if known else "it has no options"
            raise UsageError(f"{given} has no option {option!r}; {advice}")
    missing = [p.name for p in parameters if p.name in known and p.default is Parameter.empty and p.name not in options]
    if missing:
        raise UsageError(f"{given} needs the option {missing[0]!r}; pass NAME=VALUE for it")


def describe(error: BaseException) -> str:
    """An exception from third-party code in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
