"""Routes: who may ask for what, and what answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.engines.request import Request
from megatron_srp.generation.guard.policy import Generation
from megatron_srp.generation.server.access import Access
from megatron_srp.generation.server.api import ChatRequest, TextRequest, parse
from megatron_srp.generation.server.asked import requests_of
from megatron_srp.generation.server.audit import AuditLog
from megatron_srp.generation.server.body import read_body
from megatron_srp.generation.server.errors import HANDLERS, APIError
from megatron_srp.generation.server.exchange import Exchange, RequestIds
from megatron_srp.generation.server.metrics import Metrics
from megatron_srp.generation.server.moderations import (
    Moderated,
    moderation_reply,
    moderation_requests,
    parse_moderation,
)
from megatron_srp.generation.server.openapi import openapi, page
from megatron_srp.generation.server.origins import check_origin, cross_origin
from megatron_srp.generation.server.quotas import Quotas
from megatron_srp.generation.server.reader import Reader
from megatron_srp.generation.server.replies import Reply
from megatron_srp.generation.server.scores import answer_logprobs, scored_choice
from megatron_srp.generation.server.settings import Client, Settings
from megatron_srp.generation.server.streaming import (
    EventStream,
    stream,
    unless_gone,
    whole,
    whole_generations,
)
from megatron_srp.generation.server.tokenizing import parse_tokenize, tokenize
from megatron_srp.generation.server.worker import Busy, Job, Worker

Handler = Callable[[HTTPRequest, Client], Awaitable[Response]]


class Endpoint:
    """The OpenAI-compatible application, `app`, around a model and its worker."""

    def __init__(
        self,
        model: PromptedModel,
        worker: Worker,
        settings: Settings,
        access: Access | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self._model, self._worker, self._settings, self._audit = model, worker, settings, audit
        self._access = access or Access({}, settings.client)
        self._metrics, self._quotas = Metrics(worker.counts), Quotas()
        self._prompting = asyncio.Lock()  # a tokenizer serves one caller at a time
        self.app = Starlette(
            routes=self._routes(),
            exception_handlers=HANDLERS,
            middleware=[Middleware(RequestIds, self._metrics.count_request), *cross_origin(settings.origins)],
        )

    def _routes(self) -> list[Route]:
        post = ["POST"]
        return [
            Route("/v1/chat/completions", self._for_clients(self._chat), methods=post),
            Route("/v1/completions", self._for_clients(self._complete), methods=post),
            Route("/v1/moderations", self._for_clients(self._moderate), methods=post),
            Route("/tokenize", self._for_clients(self._tokenize), methods=post),
            Route("/v1/models", self._for_clients(self._models)),
            Route("/v1/models/{name:path}", self._for_clients(self._card)),
            Route("/metrics", self._for_clients(self._show_metrics)),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/openapi.json", lambda http: JSONResponse(openapi())),
            Route("/docs", lambda http: HTMLResponse(page())),
        ]

    def _for_clients(self, handler: Handler) -> Callable[[HTTPRequest], Awaitable[Response]]:
        """A route for those with a key. Errors become answers here: those that Starlette does not handle would end the
        connection, and the next request on it."""

        async def endpoint(http: HTTPRequest) -> Response:
            try:
                check_origin(http, self._settings.origins)
                client = self._access.client(http)
                if http.method == "POST":
                    self._quotas.count_request(client)
                return await handler(http, client)
            except ClientDisconnect:
                raise
            except Exception as error:
                return APIError.of(error).response()

        return endpoint

    async def _chat(self, http: HTTPRequest, client: Client) -> Response:
        return await self._answer(http, client, ChatRequest)

    async def _complete(self, http: HTTPRequest, client: Client) -> Response:
        if not client.completions:
            raise APIError(
                403,
                "/v1/completions is off, since it lets a client write the beginning of an answer; use "
                "/v1/chat/completions, or ask the operator for --completions",
                "permission_error",
                "completions_off",
            )
        return await self._answer(http, client, TextRequest)

    async def _score(
        self, http: HTTPRequest, reader: Reader, reply: Reply, requests: list[Request], asked: TextRequest
    ) -> Response:
        try:
            found = await unless_gone(http, whole_generations(reader))
        finally:
            reader.cancel()
        if not all(generation.scores for generation in found):
            raise Busy("the prompts were not scored in time")
        content = reply.whole([""] * len(found), found, [False] * len(found))
        for choice, request, generation in zip(content["choices"], requests, found, strict=True):
            top, generated = asked.logprobs or 0, asked.max_tokens or 0
            choice |= scored_choice(self._model, request.prompt, generation.scores, top, generated)
        return JSONResponse(content)

    async def _moderate(self, http: HTTPRequest, client: Client) -> Response:
        asked = parse_moderation(await read_body(http, self._settings.body_bytes))
        self._check_model(asked.model or self._settings.name)
        policy = client.options.policy
        async with self._prompting:
            by_result = await asyncio.to_thread(moderation_requests, self._model, policy, asked)
        requests = [request for result in by_result for request in result]
        at = iter([generation.forced[0] for generation in await self._judged(http, client, requests)])
        found = [Moderated.of(result, [next(at) for _ in result], policy) for result in by_result]
        flagged = [i for i, one in enumerate(found) if one.flagged(policy)]
        naming = [found[i].naming(self._model, policy) for i in flagged]
        for i, answer in zip(flagged, await self._generations(http, client, naming), strict=True):
            found[i] = found[i].named(self._model, answer)
        return JSONResponse(moderation_reply(self._settings.name, policy, found))

    async def _judged(self, http: HTTPRequest, client: Client, requests: list[Request]) -> list[Generation]:
        """Each with a verdict; raises Busy where time was up before it was read."""
        found = await self._generations(http, client, requests)
        if not all(generation.forced for generation in found):
            raise Busy("the verdict was not read in time")
        return found

    async def _generations(self, http: HTTPRequest, client: Client, requests: list[Request]) -> list[Generation]:
        """How each of them ends."""
        if not requests:
            return []
        reader = self._reader(http, client, requests, [])
        try:
            return await unless_gone(http, whole_generations(reader))
        finally:
            reader.cancel()

    async def _tokenize(self, http: HTTPRequest, client: Client) -> Response:
        asked = parse_tokenize(await read_body(http, self._settings.body_bytes))
        self._check_model(asked.model or self._settings.name)
        async with self._prompting:
            return JSONResponse(await asyncio.to_thread(tokenize, self._model, asked))

    async def _models(self, http: HTTPRequest, client: Client) -> Response:
        return JSONResponse({"object": "list", "data": [self._describe()]})

    async def _card(self, http: HTTPRequest, client: Client) -> Response:
        self._check_model(http.path_params["name"])
        return JSONResponse(self._describe())

    async def _health(self, http: HTTPRequest) -> Response:
        """Whether the process lives, as it does while it drains; how busy it is only for those with a key."""
        state: dict[str, Any] = {"status": "closing" if self._worker.closing else "ok"}
        try:
            self._access.client(http)
        except APIError:
            return JSONResponse(state)
        return JSONResponse(state | self._worker.counts())

    async def _ready(self, http: HTTPRequest) -> Response:
        """Whether new requests are accepted."""
        closing = self._worker.closing
        return JSONResponse({"ready": not closing}, 503 if closing else 200)

    async def _answer(self, http: HTTPRequest, client: Client, kind: type[ChatRequest] | type[TextRequest]) -> Response:
        asked = parse(kind, await read_body(http, self._settings.body_bytes))
        self._check_model(asked.model)
        async with self._prompting:
            by_prompt = await asyncio.to_thread(requests_of, self._model, client, asked)
        requests = [request for prompt in by_prompt for request in prompt]
        prompt_tokens = sum(len(prompt[0].prompt) for prompt in by_prompt)
        logprobs = answer_logprobs(self._model.vocabulary.piece, kind is ChatRequest, asked.alternatives)
        reply = Reply(kind is ChatRequest, self._settings.name, asked.guard.reflections, prompt_tokens, logprobs)
        reader = self._reader(http, client, requests, asked.stops)
        if isinstance(asked, TextRequest) and asked.echo:
            return await self._score(http, reader, reply, requests, asked)
        if asked.stream:
            usage = bool(asked.stream_options and asked.stream_options.include_usage)
            return EventStream(reader, stream(reader, reply, len(requests), usage))
        try:
            return JSONResponse(await unless_gone(http, whole(reader, reply, len(requests))))
        finally:
            reader.cancel()

    def _reader(self, http: HTTPRequest, client: Client, requests: list[Request], stops: list[str]) -> Reader:
        exchange = Exchange.of(http, client.name)

        def on_end(job: Job, found: Generation | Exception) -> None:
            self._quotas.give_back(client)
            self._metrics.count_answer(client.name, job, found)
            if self._audit:
                self._audit.write(exchange, job, found)

        self._quotas.take(client, len(requests))
        try:
            return Reader(self._worker, requests, stops, self._settings.timeout_s, on_end)
        except Busy:
            self._quotas.give_back(client, len(requests))
            raise

    async def _show_metrics(self, http: HTTPRequest, client: Client) -> Response:
        return self._metrics.response()

    def _check_model(self, name: str) -> None:
        if name != self._settings.name:
            message = f"unknown model {name!r}; this server serves {self._settings.name!r}"
            raise APIError(404, message, "invalid_request_error", "model_not_found")

    def _describe(self) -> dict[str, Any]:
        most = {"max_model_len": self._model.max_length}
        return {"id": self._settings.name, "object": "model", "created": 0, "owned_by": "megatron-srp", **most}
