"""`vllm serve --middleware megatron_srp.generation.vllm.middleware.GuardMiddleware`: what passes, and what is shown.

Routes pass by name only. A request is read as `srp serve` reads it: a field that is not known is refused, text that a
user wrote is escaped, and its own policy may be stricter. vLLM is then asked for tokens, and what the reader sees is
made of these by the same guard that the engine follows, with `content_filter` and the refusal where it stops.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from megatron_srp.errors import InputError
from megatron_srp.generation.engines.request import Options, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.server.api import ChatRequest, Common, TextRequest, UnsupportedField, parse
from megatron_srp.generation.server.body import read_body
from megatron_srp.generation.server.errors import APIError
from megatron_srp.generation.server.replies import Reply
from megatron_srp.generation.server.settings import MAX_CHOICES
from megatron_srp.generation.vllm.choice import Choice
from megatron_srp.generation.vllm.model import ServedModel
from megatron_srp.generation.vllm.plugin import check_engine
from megatron_srp.generation.vllm.settings import VARIABLE, read_settings, requests_policy, to_arguments
from megatron_srp.generation.vllm.upstream import Refused, Upstream, error_of

MOST_BYTES = 1 << 20
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
# Those that generate nothing, and tell nothing of anybody's text.
_CHECKED = Options(GuardPolicy(), Sampling())
OPEN = frozenset({"/health", "/ping", "/load", "/version", "/metrics", "/metrics/", "/v1/models"})


class GuardMiddleware:
    """The guard in front of vLLM's application.

    Raises:
        SystemExit: when SRP_GUARD is not set.
    """

    def __init__(self, app: ASGIApp) -> None:
        settings = read_settings()
        if settings is None:
            raise SystemExit(
                f"megatron-srp: the middleware needs {VARIABLE}; set it to a JSON object, {{}} for the defaults"
            )
        self._app = app
        self._model: ServedModel | None = None
        self._loading = asyncio.Lock()
        self._kinds: dict[str, type[ChatRequest] | type[TextRequest]] = {CHAT: ChatRequest}
        if settings.completions:
            self._kinds[TEXT] = TextRequest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["method"] == "POST" and scope["path"] in self._kinds:
            response = await self._respond(scope, receive)
            await response(scope, receive, send)
        elif self._passes(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
        else:
            routes = ", ".join(sorted({*OPEN, *self._kinds}))
            message = f"{scope['method']} {scope['path']}: not on this guarded server, which has {routes}"
            await APIError(404, message, "invalid_request_error").response()(scope, receive, send)

    def _passes(self, method: str, path: str) -> bool:
        reads = method in ("GET", "HEAD") and path in OPEN
        return reads or (method == "OPTIONS" and path in {*OPEN, *self._kinds})

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        try:
            exchange = await self._exchange(scope, receive)
            return await exchange.respond()
        except Refused as refused:
            return refused.error.response()
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            return APIError.of(error).response()

    async def _exchange(self, scope: Scope, receive: Receive) -> "Exchange":
        asked = parse(self._kinds[scope["path"]], await read_body(HTTPRequest(scope, receive), MOST_BYTES))
        if (asked.n or 1) > MAX_CHOICES:
            raise InputError(f"n: {asked.n}; at most {MAX_CHOICES} answers to one request")
        served = await self._served(scope)
        policy = requests_policy(served.policy, asked.guard)
        longest = scope["app"].state.vllm_config.model_config.max_model_len
        body = await asyncio.to_thread(_upstream_body, asked, served, longest)
        return Exchange(asked, served, policy, longest, Upstream(self._app, scope, receive, body))

    async def _served(self, scope: Scope) -> ServedModel:
        async with self._loading:
            if self._model is None:
                state = scope["app"].state
                check_engine(state.vllm_config)
                model = await asyncio.to_thread(ServedModel.of, state.vllm_config.model_config)
                if model.prompts and (template := _own_template(state)):
                    model.prompts.use_template(template)
                self._model = model
        return self._model


class Exchange:
    """One request and its answers."""

    def __init__(
        self, asked: ChatRequest | TextRequest, served: ServedModel, policy: GuardPolicy, longest: int, up: Upstream
    ) -> None:
        self._asked, self._served, self._policy, self._longest, self._up = asked, served, policy, longest, up
        self._choices: list[Choice] = []

    async def respond(self) -> Response:
        """The answer to the client; raises Refused when vLLM refuses the request."""
        events = self._up.events()
        first = await anext(events, None)  # with an error, there is none
        if first is None:
            await self._up.close()
            raise ClientDisconnect
        self._begin(first)
        if self._asked.stream:
            return StreamingResponse(
                self._stream(first, events), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
            )
        async for _ in self._pieces(first, events):
            pass
        generations = [choice.result() for choice in self._choices]
        texts, cuts = ([getattr(c, name) for c in self._choices] for name in ("text", "cut"))
        return JSONResponse(self._reply.whole(texts, generations, cuts))

    def _begin(self, first: dict[str, Any]) -> None:
        """What the first event says: how long the prompt is."""
        if "error" in first:
            raise error_of(first)
        prompt = first.get("prompt_token_ids") or first["choices"][0].get("prompt_token_ids") or []
        most = self._asked.most_tokens
        room = self._longest - len(prompt)
        room = min(room, most + self._served.tokens.longest) if most else room
        stops = self._asked.stops
        self._choices = [Choice(self._served.tokens, self._policy, room, stops) for _ in range(self._asked.n or 1)]
        chat = isinstance(self._asked, ChatRequest)
        self._reply = Reply(chat, self._asked.model, self._asked.guard.reflections, len(prompt))

    async def _pieces(
        self, first: dict[str, Any], events: AsyncIterator[dict[str, Any]]
    ) -> AsyncIterator[tuple[int, str]]:
        """Texts to show, and an empty one where an answer ends."""
        try:
            async for event in _after(first, events):
                if "error" in event:
                    raise error_of(event)
                for index, shown, ended in self._take(event):
                    if shown:
                        yield index, shown
                    if ended:
                        yield index, ""
                if all(choice.ended for choice in self._choices):
                    return
            raise ClientDisconnect  # vLLM has stopped in the middle
        finally:
            await self._up.close()

    def _take(self, event: dict[str, Any]) -> list[tuple[int, str, bool]]:
        found = []
        for part in event.get("choices", ()):
            choice = self._choices[part["index"]]
            if not choice.ended:
                shown = choice.push(part.get("token_ids") or (), part.get("finish_reason") is not None)
                found.append((part["index"], shown, choice.ended))
        return found

    async def _stream(self, first: dict[str, Any], events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
        reply = self._reply
        for index in range(len(self._choices)):
            if piece := reply.first(index):
                yield _event(piece)
        try:
            async for index, shown in self._pieces(first, events):
                choice = self._choices[index]
                yield _event(reply.piece(index, shown) if shown else reply.last(index, choice.result(), choice.cut))
            if self._asked.stream_options and self._asked.stream_options.include_usage:
                yield _event(reply.usage_piece([choice.result() for choice in self._choices]))
        except Exception as error:  # the status has been sent already
            yield _event(APIError.of(error).body())
        yield b"data: [DONE]\n\n"


def _own_template(state: Any) -> str | None:
    """What --chat-template says; it takes the place of the tokenizer's."""
    given = getattr(getattr(state, "args", None), "chat_template", None)
    if given is None:
        return None
    from vllm.renderers.chat_utils import load_chat_template

    return load_chat_template(given)


async def _after(first: dict[str, Any], events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    yield first
    async for event in events:
        yield event


def _upstream_body(asked: ChatRequest | TextRequest, served: ServedModel, longest: int) -> dict[str, Any]:
    """What vLLM is asked: an escaped prompt, and nothing that has not been read and understood.

    Args:
        longest: tokens that a prompt and its answer may have together.
    """
    body: dict[str, Any] = {"model": asked.model, "stream": True, "return_token_ids": True, "n": asked.n or 1}
    for name in ("temperature", "top_p"):
        if (value := getattr(asked, name)) is not None:
            body[name] = value
    if asked.seed is not None:
        body["seed"] = asked.seed % 2**63  # vLLM takes no other
    if asked.most_tokens:  # more than the client wants, for judging the end
        body["max_tokens"] = min(asked.most_tokens + served.tokens.longest, longest)
    if arguments := to_arguments(asked.guard):
        body["vllm_xargs"] = arguments
    return body | _prompt(asked, served)


def _prompt(asked: Common, served: ServedModel) -> dict[str, Any]:
    prompts = served.prompts
    assert prompts
    if isinstance(asked, ChatRequest):
        turns = [message.as_turn() for message in asked.messages]
        if asked.logprobs:
            raise UnsupportedField("logprobs")
        prompts.chat(turns, _CHECKED)  # refuses what two turns write together, or what cannot fit
        return {"messages": [{name: prompts.escape(text) for name, text in turn.items()} for turn in turns]}
    assert isinstance(asked, TextRequest)
    if asked.echo or asked.logprobs is not None or asked.max_tokens == 0:
        raise InputError("echo, logprobs, max_tokens 0: tokens are scored by srp serve only; leave them out")
    if len(asked.prompts) > 1:
        raise InputError("prompt: pass one text per request")
    (text,) = asked.prompts
    assert isinstance(text, str)
    prompts.refuse_unfinished(text)
    return {"prompt": prompts.escape(text, before_answer=True)}


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
