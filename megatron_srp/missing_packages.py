"""Errors for packages that a command needs and that are not installed, with the command that installs them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from megatron_srp.errors import UsageError

# Packages that only some commands need, by the extra of setup.cfg that brings them.
EXTRAS = {
    **dict.fromkeys(["httpx", "vllm"], "annotate"),
    **dict.fromkeys(["model2vec"], "static"),
    **dict.fromkeys(["any_guardrail"], "guardrails"),
    **dict.fromkeys(["boto3", "s3fs"], "s3"),
    **dict.fromkeys(["gguf"], "gguf"),
    **dict.fromkeys(["peft"], "tampering"),
    **dict.fromkeys(["ray"], "ray"),
    **dict.fromkeys(["prometheus_client", "starlette", "uvicorn"], "serve"),
    **dict.fromkeys(["nvidia", "transformer_engine"], "gpu"),
    **dict.fromkeys(["datasets", "lm_eval"], "eval"),
    **dict.fromkeys(["emerging_optimizers"], "world"),
}

_COMPILED = re.compile(r"(?:name '|\.)_[a-z]\w*")  # our compiled modules, whose names begin with _


@contextmanager
def missing_packages_explained(command: str) -> Iterator[None]:
    """Turn an import that fails into a UsageError that says how to install what is missing.

    Args:
        command: as the user typed it.
    """
    try:
        yield
    except ImportError as error:
        reason = _explain(error)
        if reason is None:
            raise
        raise UsageError(f"{command} {reason}") from error


def _explain(error: ImportError) -> str | None:
    """The message; None for a failing import of our own: a bug, which should show its traceback."""
    missing = (error.name or "").partition(".")[0]
    if missing == "megatron_srp":
        if not _COMPILED.search(f"{error.name} {error}"):
            return None
        return (
            f"needs the compiled kernels, which this installation lacks ({error}); with a C compiler installed, build "
            "them: pip install --force-reinstall --no-deps --no-binary megatron-srp megatron-srp, or, in a checkout, "
            "pip install --no-deps -e ."
        )
    if not isinstance(error, ModuleNotFoundError):
        return None
    extra = f"[{EXTRAS[missing]}]" if missing in EXTRAS else ""
    return f"needs {missing}, which is not installed; pip install 'megatron-srp{extra}'"
