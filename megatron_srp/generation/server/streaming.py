"""Answers to one HTTP request, whole or as server-sent events; they end when nobody listens any more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from megatron_srp.generation.guard.policy import Generation
from megatron_srp.generation.server.errors import APIError
from megatron_srp.generation.server.reader import Reader
from megatron_srp.generation.server.replies import Reply

HEARTBEAT_S = 10.0  # of a stream that has nothing to show yet, so that it does not look dead


class EventStream(StreamingResponse):
    """Server-sent events."""

    def __init__(self, reader: Reader, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reader.cancel()


async def whole(reader: Reader, reply: Reply, n: int) -> dict[str, Any]:
    """All answers at once."""
    texts, generations = [""] * n, {}
    async for index, found in reader.events():
        if isinstance(found, str):
            texts[index] += found
        else:
            generations[index] = found
    return reply.whole(texts, [generations[i] for i in range(n)], [stop.found for stop in reader.stops])


async def whole_generations(reader: Reader) -> list[Generation]:
    """How each answer ended, in order."""
    found = {index: end async for index, end in reader.events() if not isinstance(end, str)}
    return [found[i] for i in sorted(found)]


async def stream(reader: Reader, reply: Reply, n: int, usage: bool) -> AsyncIterator[bytes]:
    """All answers' pieces as they arrive. An error is an event: the status has been sent already."""
    generations: list[Generation] = []
    lengths = [0] * n
    for index in range(n):
        if first := reply.first(index):
            yield _event(first)
    events = reader.events()
    coming: asyncio.Task[Any] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events, None))
            await asyncio.wait({coming}, timeout=HEARTBEAT_S)
            if not coming.done():
                yield b": still working\n\n"
                continue
            event, coming = coming.result(), None
            if event is None:
                break
            index, found = event
            if isinstance(found, str):
                lengths[index] += len(found)
                yield _event(reply.piece(index, found))
            else:
                generations.append(found)
                yield _event(reply.last(index, found, reader.stops[index].found, lengths[index]))
        if usage:
            yield _event(reply.usage_piece(generations))
    except Exception as error:
        yield _event(APIError.of(error).body())
    finally:
        if coming:
            coming.cancel()
    yield b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


async def unless_gone[T](http: HTTPRequest, work: Awaitable[T]) -> T:
    """The result of `work`, unless the client disconnects first."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    both = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not both[0].done():
            raise ClientDisconnect
        return both[0].result()  # type: ignore[return-value]
    finally:
        for task in both:
            task.cancel()
