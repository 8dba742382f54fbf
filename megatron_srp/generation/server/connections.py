"""Limits on connections: how many, and how long one may say nothing."""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from megatron_srp.errors import UsageError

HEADER_TIMEOUT_S = 20.0  # for a new connection's first request, with all its headers
WAITING = 1024  # connections that the system may hold until they are accepted
_AT_ONCE = 32  # accepted in one turn of the event loop
# The model's, logs, sockets that listen; and connections above the limit, each closed a few turns after its acceptance.
_OTHER_FILES = 64 + 4 * _AT_ONCE


def limited_protocol(most: int, header_timeout_s: float = HEADER_TIMEOUT_S) -> type[H11Protocol]:
    """uvicorn's HTTP protocol with what it has no settings for.

    Args:
        most: connections at a time; a further one is closed at once.
    """

    class Limited(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
                return
            self._deadline = self.loop.call_later(header_timeout_s, self._close_if_silent)

        def connection_lost(self, exc: Exception | None) -> None:
            if deadline := getattr(self, "_deadline", None):
                deadline.cancel()
            super().connection_lost(exc)

        def _close_if_silent(self) -> None:
            if self.cycle is None:  # no request has begun
                self.transport.abort()

    return Limited


def require_open_files(connections: int) -> None:
    """Raise this process's limit of open files to what that many connections need.

    Raises:
        UsageError: when the system does not allow as many.
    """
    needed = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UsageError(
            f"--max-connections {connections} needs {needed} open files, and the limit is {hard}; raise it (ulimit -n "
            f"{needed}), or pass at most {max(hard - _OTHER_FILES, 0)}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def uvicorn_settings(most: int) -> dict[str, Any]:
    """Of uvicorn.Config."""
    return {"http": limited_protocol(most), "timeout_keep_alive": 10, "backlog": _AT_ONCE}
