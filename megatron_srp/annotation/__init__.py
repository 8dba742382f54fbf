"""Guards, the classifiers that judge segments. A table of names, each imported when it is asked for.

A guard's name is one of `GUARDS`; or `python:MODULE:CLASS`, one's own class of `Guard`; or
the path of a YAML file that describes a chat model which answers with a verdict (`guard_spec`); or
`ensemble:FILE.yaml`, several guards as one (`ensemble`).
A new guard of the table is a class in a module of its own, or a YAML file, and one line in `GUARDS`.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from megatron_srp.annotation.base import Guard, GuardOptions, GuardResult
from megatron_srp.errors import UsageError, did_you_mean

GUARDS = {
    "heuristic": "megatron_srp.annotation.guards.heuristic:HeuristicGuard",
    "qwen3guard": "qwen3guard.yaml",
    "llama-guard": "llama_guard.yaml",
}

__all__ = ["GUARDS", "Guard", "GuardOptions", "GuardResult", "load_guard"]


def load_guard(name: str, options: GuardOptions | None = None, also: Sequence[str] = ()) -> Guard:
    """The guard of that name; raises UsageError for an unknown one, and for options it does not take.

    Args:
        also: other names that the user might have given, for the message.
    """
    options = options or GuardOptions()
    if name.startswith("ensemble:"):
        from megatron_srp.annotation.guards.ensemble import load_ensemble

        if options.changed():
            raise UsageError(f"--guard {name}: {', '.join(options.changed_flags())} belongs to each guard in the file")
        return load_ensemble(Path(name.removeprefix("ensemble:")), load_guard)
    target = name if name.endswith((".yaml", ".yml")) or name.startswith("python:") else GUARDS.get(name)
    if target is None:
        choices = did_you_mean(name, [*GUARDS, *also])
        raise UsageError(f"unknown guard {name!r}, and no YAML file, ensemble: or python:; {choices}")
    if target.endswith((".yaml", ".yml")):
        from megatron_srp.annotation.guards.chat_guard import load_chat_guard

        return load_chat_guard(Path(__file__).with_name("guards") / target if name in GUARDS else Path(name), options)
    if options.changed():
        raise UsageError(f"--guard {name} is not a chat guard and does not accept {', '.join(options.changed_flags())}")
    return _instance(target.removeprefix("python:"), name)


def _instance(target: str, name: str) -> Guard:
    module, _, attribute = target.partition(":")
    try:
        guard = getattr(import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(f"--guard {name}: {error}; give python:MODULE:CLASS, with the module on PYTHONPATH") from None
    if not isinstance(guard, Guard):
        raise UsageError(f"--guard {name}: {attribute} is no megatron_srp.annotation.Guard")
    return guard
