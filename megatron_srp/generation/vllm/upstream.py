"""vLLM's own application as the engine: a request sent to it within this process, and the events that it answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope

from megatron_srp.generation.server.errors import APIError

_END = object()
_DONE = b"[DONE]"


class Refused(Exception):
    """vLLM answers with an error.

    Attributes:
        error: it, for the client.
    """

    def __init__(self, error: APIError) -> None:
        super().__init__(error.status)
        self.error = error


def error_of(content: dict[str, Any], status: int = 500) -> APIError:
    """An error that vLLM reports, in one line.

    Args:
        status: where it says none.
    """
    reported = content["error"]
    status = reported["code"] if isinstance(reported.get("code"), int) else status
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return APIError(status, " ".join(str(reported.get("message", "")).split()), kind, param=reported.get("param"))


class Upstream:
    """One request to vLLM's application, whose answer is a stream of server-sent events.

    Args:
        receive: the client's channel, which says when the client goes away.
    """

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, body: dict[str, Any]) -> None:
        content = msgspec.json.encode(body)
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._run(app, _with_body(scope, content), _receive(content, receive)))

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The events, as they come.

        Raises:
            Refused: when the answer is an error.
        """
        rest = b""
        async for piece in self._body():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data: ") and (data := line[6:].strip()) != _DONE:
                    yield msgspec.json.decode(data)

    async def close(self) -> None:
        """Nobody reads it any more: have vLLM drop it."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task

    async def _body(self) -> AsyncIterator[bytes]:
        head = await self._message()
        if head is None:
            return
        if head["status"] != 200:
            content = b"".join([message["body"] async for message in self._rest()])
            raise Refused(error_of(_read_error(content), head["status"]))
        async for message in self._rest():
            yield message["body"]

    async def _rest(self) -> AsyncIterator[Message]:
        while (message := await self._message()) is not None:
            yield {"body": b"", **message}

    async def _message(self) -> Message | None:
        """The next, or None at the end."""
        message = await self._messages.get()
        if message is _END:
            self._messages.put_nowait(_END)
            if not self._task.cancelled() and self._task.done() and (error := self._task.exception()):
                raise error
            return None
        return message

    async def _run(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        try:
            await app(scope, receive, self._messages.put)
        finally:
            self._messages.put_nowait(_END)


def _read_error(content: bytes) -> dict[str, Any]:
    with contextlib.suppress(msgspec.DecodeError):
        found = msgspec.json.decode(content)
        if isinstance(found, dict) and isinstance(found.get("error"), dict):
            return found
    return {"error": {"message": "vLLM has refused the request; its log says why"}}


def _with_body(scope: Scope, content: bytes) -> Scope:
    headers = [(k, v) for k, v in scope["headers"] if k.lower() not in (b"content-length", b"transfer-encoding")]
    return {**scope, "headers": [*headers, (b"content-length", str(len(content)).encode())]}


def _receive(content: bytes, client: Receive) -> Callable[[], Any]:
    """A channel that brings that body, and then whatever comes from the client."""
    body: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Message:
        return body.pop() if body else await client()

    return receive
