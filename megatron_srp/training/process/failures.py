"""Which rank of a node failed first, and how its launcher ends for it."""

import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Failed:
    """A rank that has failed; the exit code is -N where signal N ended it."""

    rank: int
    exit_code: int
    message: str


def find_cause(failures: Iterable[tuple[int, Any]]) -> Failed:
    """The first failure; the ranks that torchrun ended for it come last.

    Args:
        failures: torchrun's, by rank. Their times are whole seconds, so those with one cause are often equal.
    """
    rank, failure = min(failures, key=lambda item: (item[1].exitcode == -signal.SIGTERM, item[1].timestamp))
    code = failure.exitcode
    if code < 0:
        return Failed(rank, code, f"ended by {_signal(code)}")
    message = (failure.error_file_data or {}).get("message")
    if not isinstance(message, str):
        message = f"ended with exit code {code}"
    return Failed(rank, code, message.removeprefix("error: "))


def end_like(failed: Failed) -> int:
    """The exit code for a failed rank's; a rank that was killed could not report it, so this prints the line."""
    if failed.exit_code >= 0:
        return failed.exit_code
    print(f"error: rank {failed.rank} was {failed.message}", file=sys.stderr)
    return shell_code(failed.exit_code)


def shell_code(code: int) -> int:
    """128 + N for signal N, as shells have it."""
    return code if code >= 0 else 128 - code


def _signal(code: int) -> str:
    memory = "; has the machine run out of memory?" if code == -signal.SIGKILL else ""
    return f"{signal.Signals(-code).name}{memory}"
