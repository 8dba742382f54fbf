"""The audit log: a line of JSON for each answer, with its verdicts and without its text unless the operator asks."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from os import SEEK_END
from pathlib import Path
from typing import Any

import msgspec

from megatron_srp.errors import OutputError
from megatron_srp.generation.guard.policy import Generation, GuardPolicy
from megatron_srp.generation.server.exchange import Exchange
from megatron_srp.generation.server.outcomes import outcome
from megatron_srp.generation.server.worker import Job

_POLICY = ("on_unsafe", "reflect_every", "reflect_prompt", "unsafe_threshold")


class AuditLog:
    """Appends to a file, which may be moved away at any time, as logrotate does.

    Args:
        decode: of token ids; with it, prompts and answers are written as well.

    Raises:
        OutputError: when the file cannot be written.
    """

    def __init__(self, path: Path, decode: Callable[[Sequence[int]], str] | None = None) -> None:
        self._decode = decode
        try:
            _end_last_line(path)
            handler = WatchedFileHandler(path, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"--audit-log {path}: {error.strerror}") from None
        self._log = logging.Logger("audit")
        self._log.addHandler(handler)

    def write(self, exchange: Exchange, job: Job, found: Generation | Exception) -> None:
        """Write the line of an answer that has ended, or has failed."""
        content = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": exchange.request_id,
            "client": exchange.client,
            "path": exchange.path,
            "policy": _describe(job.request.policy),
            "prompt_tokens": len(job.request.prompt) + len(job.request.prefill),
            **(self._answer(job, found) if isinstance(found, Generation) else {"error": type(found).__name__}),
        }
        self._log.info(msgspec.json.encode(content).decode())

    def _answer(self, job: Job, found: Generation) -> dict[str, Any]:
        record = outcome(found)
        text = record.pop("text")
        return record | ({"prompt": self._decode(job.request.prompt), "text": text} if self._decode else {})


def _end_last_line(path: Path) -> None:
    """A server that was killed may have left half a line, which the next one is not to become a part of."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, SEEK_END)
        if file.read() != b"\n":
            file.write(b"\n")


def _describe(policy: GuardPolicy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in _POLICY} | {"stop_at": sorted(policy.stop_at)}
