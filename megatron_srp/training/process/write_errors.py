"""Why a checkpoint could not be written. Megatron keeps only the type of its writer's error.

A full disk is an OSError wrapped in torch's error about the position in its archive.
"""

import functools
from collections.abc import Callable
from typing import Any


def keep_reasons_of_failed_writes() -> None:
    """Make Megatron report the reason, in each process that writes, including the worker of `--async-save`."""
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    FileSystemWriterAsync.write_preloaded_data = staticmethod(raise_errors(FileSystemWriterAsync.write_preloaded_data))


def raise_errors(write: Callable[..., Any]) -> Callable[..., Any]:
    """Megatron's `write`, which returns (number, results or error), but raising the error, so its text is kept."""

    @functools.wraps(write)
    def write_or_raise(*args: Any, **kwargs: Any) -> Any:
        result = write(*args, **kwargs)
        if result is not None and isinstance(result[1], Exception):
            raise RuntimeError(find_reason(result[1])) from result[1]
        return result

    return write_or_raise


def find_reason(error: BaseException) -> str:
    """The operating system's message if it is among the causes, else the error's own."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError):
        return f"{cause.strerror}: {cause.filename}" if cause.filename else str(cause.strerror)
    return " ".join(str(error).split()) or type(error).__name__
