"""Packages that a training can go without: why a compiled one does not load, and hiding them from Megatron.

Megatron takes an extension that is absent for what it is, an ImportError, and falls back. One that is there but was
built for another PyTorch, or does not find a library, raises what it likes, and would end the run with a traceback.
"""

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Iterable
from importlib.util import find_spec

ENGINE = "transformer_engine"
NOT_INSTALLED = "is not installed"
# pip would build the part for PyTorch against the newest PyTorch, in an environment of its own.
INSTALL_GPU = "pip install --no-build-isolation 'megatron-srp[gpu]'"


def import_failure(module: str) -> str | None:
    """None if it can be imported, else why not, in one line. What it prints is dropped."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(module)
        except Exception as error:  # compiled extensions raise what they like
            return " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return None


def engine_failure() -> str | None:
    """What keeps Transformer Engine from serving, to follow its name in a sentence; None if it loads."""
    if find_spec(ENGINE) is None:
        return NOT_INSTALLED
    reason = import_failure(f"{ENGINE}.pytorch")
    return None if reason is None else f"does not load ({reason})"


def hide_engine() -> None:
    """From now on Transformer Engine cannot be imported in this process, as if it were not installed."""
    sys.modules[ENGINE] = None  # type: ignore[assignment]  # Python's own mark for that


def hide_broken_engine() -> str | None:
    """Hide it where it does not load; returns `engine_failure()`. Before anything of Megatron is imported."""
    failure = engine_failure()
    if failure is not None:
        hide_engine()
    return failure


def hide_unused_wandb(flags: Iterable[str]) -> None:
    """Megatron's timers import wandb in every run, a second per rank: not in one whose flags do not ask for it."""
    if not any(flag.startswith(("--wandb", "--yaml-cfg")) for flag in flags):
        sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]
