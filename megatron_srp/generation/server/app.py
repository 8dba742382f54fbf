"""Routes, limits, and what happens when a client goes away."""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, replace
from secrets import randbits
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from megatron_srp.errors import InputError, SrpError
from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Options, Request, Sampling
from megatron_srp.generation.guard.policy import Generation
from megatron_srp.generation.server.api import ChatRequest, Common, TextRequest, parse
from megatron_srp.generation.server.client_policy import PolicyTooWeak, policy_of
from megatron_srp.generation.server.reader import Reader
from megatron_srp.generation.server.replies import Reply, error_body
from megatron_srp.generation.server.worker import Busy, Closing, Worker

_log = logging.getLogger(__name__)
BODY_TIMEOUT_S = 30.0  # to send a request's body in
HEARTBEAT_S = 10.0  # of a stream that has nothing to show yet, so that it does not look dead


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's settings.

    Attributes:
        name: the model's name for clients.
        options: defaults for answers; their number of tokens is also the maximum that a request gets.
        allow_weaker: whether a request may have a weaker guard than `options` has.
        timeout_s: time limit for a request, including its time in the queue.
        body_bytes: maximum size of a request.
        api_key: key that requests must send, if any.
    """

    name: str
    options: Options
    allow_weaker: bool = False
    timeout_s: float = 120.0
    body_bytes: int = 1 << 20
    api_key: str | None = None


class APIError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, kind: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.code = status, kind, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> Response:
        return JSONResponse(error_body(str(self), self.kind, self.code), self.status, self.headers)

    @classmethod
    def of(cls, error: Exception) -> "APIError":
        """An error as the client sees it."""
        if isinstance(error, APIError):
            return error
        if isinstance(error, Busy):
            full = not isinstance(error, Closing)
            kind, code = ("rate_limit_error", "queue_full") if full else ("server_error", "closing")
            return cls(
                429 if full else 503, f"{error}; try again later", kind, code, Retry_After=str(error.retry_after)
            )
        if isinstance(error, PolicyTooWeak):
            return cls(403, str(error), "permission_error", "policy_too_weak")
        if isinstance(error, SrpError):
            return cls(400, str(error), "invalid_request_error")
        if isinstance(error, HTTPException):
            return cls(error.status_code, error.detail, "invalid_request_error", **dict(error.headers or {}))
        return cls(500, "internal error, see the server log", "server_error")


class Endpoint:
    """The OpenAI-compatible application, `app`, around a model and its worker."""

    def __init__(self, model: PromptedModel, worker: Worker, settings: Settings) -> None:
        self._model, self._worker, self._settings = model, worker, settings
        self._prompting = asyncio.Lock()  # a tokenizer serves one caller at a time
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._card),
            Route("/health", self._health),
        ]
        handled: Any = dict.fromkeys((APIError, Busy, PolicyTooWeak, SrpError, HTTPException, Exception), _on_error)
        handled[ClientDisconnect] = _on_disconnect
        self.app = Starlette(routes=routes, exception_handlers=handled)

    async def _chat(self, http: HTTPRequest) -> Response:
        return await self._answer_or_error(http, ChatRequest)

    async def _complete(self, http: HTTPRequest) -> Response:
        return await self._answer_or_error(http, TextRequest)

    async def _answer_or_error(self, http: HTTPRequest, kind: type[ChatRequest] | type[TextRequest]) -> Response:
        """Answers errors that Starlette does not handle: they would end the connection, and the next request on it."""
        try:
            return await self._answer(http, kind)
        except ClientDisconnect:
            raise
        except Exception as error:
            told = APIError.of(error)
            if told.status == 500:
                _log.error("a request failed", exc_info=error)
            return told.response()

    async def _models(self, http: HTTPRequest) -> Response:
        self._authorize(http)
        return JSONResponse({"object": "list", "data": [self._describe()]})

    async def _card(self, http: HTTPRequest) -> Response:
        self._authorize(http)
        self._check_model(http.path_params["name"])
        return JSONResponse(self._describe())

    async def _health(self, http: HTTPRequest) -> Response:
        closing = self._worker.closing
        state = {"status": "closing" if closing else "ok", **self._worker.counts()}
        return JSONResponse(state, 503 if closing else 200)

    async def _answer(self, http: HTTPRequest, kind: type[ChatRequest] | type[TextRequest]) -> Response:
        self._authorize(http)
        asked = parse(kind, await self._body(http))
        self._check_model(asked.model)
        async with self._prompting:
            requests = await asyncio.to_thread(self._requests, asked)
        if len(requests) > self._worker.capacity:
            raise InputError(
                f"{len(requests)} answers in one request; this server accepts at most {self._worker.capacity}"
            )
        prompt_tokens = sum(len(request.prompt) for request in requests)
        reply = Reply(kind is ChatRequest, self._settings.name, asked.guard.reflections, prompt_tokens)
        reader = Reader(self._worker, requests, asked.stops, self._settings.timeout_s)
        if asked.stream:
            usage = bool(asked.stream_options and asked.stream_options.include_usage)
            return EventStream(reader, _stream(reader, reply, len(requests), usage))
        try:
            return JSONResponse(await _unless_gone(http, _whole(reader, reply, len(requests))))
        finally:
            reader.cancel()

    def _requests(self, asked: ChatRequest | TextRequest) -> list[Request]:
        """One for each answer that is asked for."""
        own, policy = self._settings.options, self._policy(asked)
        most = asked.most_tokens
        sampling = Sampling(
            own.sampling.temperature if asked.temperature is None else asked.temperature,
            own.sampling.top_p if asked.top_p is None else asked.top_p,
        )
        options = Options(policy, sampling, min(most or own.max_new_tokens, own.max_new_tokens))
        if isinstance(asked, ChatRequest):
            prompts = [self._model.chat([message.as_turn() for message in asked.messages], options)]
        else:
            for prompt in asked.prompts:
                self._model.refuse_unfinished(prompt)
            prompts = [self._model.complete(prompt, options) for prompt in asked.prompts]
        requests = [prompt for prompt in prompts for _ in range(asked.n or 1)]
        seed = randbits(62) if asked.seed is None else asked.seed
        return [replace(r, sampling=replace(sampling, seed=(seed + i) % 2**63)) for i, r in enumerate(requests)]

    def _policy(self, asked: Common) -> Any:
        return policy_of(self._settings.options.policy, asked.guard, self._settings.allow_weaker)

    def _authorize(self, http: HTTPRequest) -> None:
        key = self._settings.api_key
        given = http.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if key and not hmac.compare_digest(given, key.encode()):
            raise APIError(
                401, "missing or invalid API key; send it as a Bearer token", "authentication_error", "invalid_api_key"
            )

    def _check_model(self, name: str) -> None:
        if name != self._settings.name:
            message = f"unknown model {name!r}; this server serves {self._settings.name!r}"
            raise APIError(404, message, "invalid_request_error", "model_not_found")

    def _describe(self) -> dict[str, Any]:
        most = {"max_model_len": self._model.max_length}
        return {"id": self._settings.name, "object": "model", "created": 0, "owned_by": "megatron-srp", **most}

    async def _body(self, http: HTTPRequest) -> bytes:
        """The request's body, if it comes in time and is not too large."""
        most, body = self._settings.body_bytes, bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for chunk in http.stream():
                    body += chunk
                    if len(body) > most:
                        raise APIError(413, f"the request has more than {most:,} bytes", "invalid_request_error")
        except TimeoutError:
            raise APIError(408, f"the request took more than {BODY_TIMEOUT_S:.0f} s", "invalid_request_error") from None
        return bytes(body)


class EventStream(StreamingResponse):
    """Server-sent events; the answers end when nobody listens any more."""

    def __init__(self, reader: Reader, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reader.cancel()


async def _whole(reader: Reader, reply: Reply, n: int) -> dict[str, Any]:
    texts, generations = [""] * n, {}
    async for index, found in reader.events():
        if isinstance(found, str):
            texts[index] += found
        else:
            generations[index] = found
    return reply.whole(texts, [generations[i] for i in range(n)], [stop.found for stop in reader.stops])


async def _stream(reader: Reader, reply: Reply, n: int, usage: bool) -> AsyncIterator[bytes]:
    """All answers' pieces as they arrive. An error is an event: the status has been sent already."""
    generations: list[Generation] = []
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
                yield _event(reply.piece(index, found))
            else:
                generations.append(found)
                yield _event(reply.last(index, found, reader.stops[index].found))
        if usage:
            yield _event(reply.usage_piece(generations))
    except Exception as error:
        told = APIError.of(error)
        yield _event(error_body(str(told), told.kind, told.code))
    finally:
        if coming:
            coming.cancel()
    yield b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


async def _unless_gone[T](http: HTTPRequest, work: Awaitable[T]) -> T:
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


async def _on_error(http: HTTPRequest, error: Exception) -> Response:
    return APIError.of(error).response()


async def _on_disconnect(http: HTTPRequest, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
