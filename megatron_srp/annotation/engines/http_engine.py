"""Any server with an OpenAI-compatible `/v1/completions`: vLLM serve, SGLang, transformers serve.

Prompts go out as token ids where the server takes them, several to a request, and the log-probabilities of
the verdicts come back. A server that takes only text gets text (`prompt_text`). One that returns no
log-probabilities returns only the verdict it would write: then that one has 0 and the others -inf.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from itertools import batched
from typing import Any, ClassVar, Literal

import numpy as np

from megatron_srp.annotation.engines import Engine, Prompts
from megatron_srp.annotation.engines.http_answers import as_text, read_logprobs, same_model
from megatron_srp.annotation.engines.http_client import EndpointClient, EndpointRefuses, RequestFailed
from megatron_srp.annotation.engines.http_retry import Limits, require_whole
from megatron_srp.annotation.engines.prompt_text import PromptText
from megatron_srp.errors import GuardError, UsageError, did_you_mean

Form = Literal["auto", "ids", "text"]
_TOP_OF_TEXT = 5  # the API's own limit
# The fields of the API itself. A server that takes no token ids may also refuse fields that it does not know.
_STANDARD = {"model", "prompt", "max_tokens", "temperature", "logprobs"}
_DEFAULT_LENGTH = 32_768


class HTTPEngine(Engine):
    """A model served at an endpoint.

    Args:
        model: the name under which the server lists it.
        base_url: of the endpoint, including `/v1`.
        tokenizer: folder or hub name; needed where the server takes or returns text.
        form: how prompts are sent; "auto" asks the server.
        prompts_per_request: with ids.
        max_length: of the model; by default the server's figure, where it reports one.
        concurrency, timeout_s, tries, patience_s: see `Limits`.

    Raises:
        UsageError: when the server has no such model.
        GuardError: when no server answers.
    """

    requires: ClassVar[tuple[str, ...]] = ("httpx",)

    def __init__(
        self,
        model: str,
        base_url: str = "http://127.0.0.1:8000/v1",
        tokenizer: str | None = None,
        form: Form = "auto",
        prompts_per_request: int = 16,
        max_length: int | None = None,
        concurrency: int = 64,
        timeout_s: float = 120.0,
        tries: int = 6,
        patience_s: float = 600.0,
    ) -> None:
        if form not in ("auto", "ids", "text"):
            raise UsageError(f"--guard-option form={form}: choose from auto, ids, text")
        require_whole("prompts_per_request", prompts_per_request)
        if max_length is not None:
            require_whole("max_length", max_length)
        self.model = model
        self._client = EndpointClient(base_url, Limits(concurrency, timeout_s, tries, patience_s))
        self.incidents = self._client.incidents
        self._form: Form = form
        self._per_request = prompts_per_request
        self._tokenizer_name = tokenizer
        self._text: PromptText | None = None
        self._lock = threading.Lock()
        self.max_length = max_length or _DEFAULT_LENGTH
        try:
            card = self._find_model()
        except BaseException:
            self.close()
            raise
        if not max_length and isinstance(card.get("max_model_len"), int):
            self.max_length = card["max_model_len"]

    def close(self) -> None:
        self._client.close()

    def _find_model(self) -> dict[str, Any]:
        """The server's card of the model; {} where it lists none."""
        work = self._client.request("GET", "models", None, lambda answer: {card["id"]: card for card in answer["data"]})
        try:
            cards = self._client.run(work)
        except RequestFailed as error:
            raise GuardError(f"{self._client.url}: no list of models ({error}); is the address right?") from None
        if cards and not any(same_model(name, self.model) for name in cards):
            raise UsageError(f"{self._client.url} has no model {self.model!r}; {did_you_mean(self.model, [*cards])}")
        return next((card for name, card in cards.items() if same_model(name, self.model)), {})

    # ---- the two operations

    def next_token_logprobs(self, prompts: Prompts, candidates: Sequence[int]) -> np.ndarray:
        names = {f"token_id:{i}": c for c, i in enumerate(candidates)}
        if self._has_text():
            names |= {self._texts().decode([int(i)]): c for c, i in enumerate(candidates)}
        extra = {
            "max_tokens": 1,
            "logprobs": len(candidates),  # vLLM requires this; older servers return as many of the likeliest tokens
            "allowed_token_ids": [int(i) for i in candidates],
            "logprob_token_ids": [int(i) for i in candidates],
            "return_tokens_as_token_ids": True,
        }
        rows = self._complete(prompts, extra, lambda choice: read_logprobs(choice, names, len(candidates)))
        none = np.full(len(candidates), np.nan, np.float32)
        return np.array([none if row is None else row for row in rows], np.float32).reshape(-1, len(candidates))

    def generate(self, prompts: Prompts, max_new_tokens: int, stop_ids: Sequence[int]) -> list[np.ndarray]:
        extra = {
            "max_tokens": max_new_tokens,
            "stop_token_ids": [int(i) for i in stop_ids],
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        stops = {int(i) for i in stop_ids}
        rows = self._complete(prompts, extra, lambda choice: self._written(choice, stops))
        return [np.array([] if row is None else row, np.int32) for row in rows]

    def _written(self, choice: dict[str, Any], stops: set[int]) -> list[int]:
        ids = choice.get("token_ids")
        if ids is None:
            ids = self._texts().encode(as_text(choice["text"]))
        end = next((k for k, i in enumerate(ids) if i in stops), len(ids))
        return [int(i) for i in ids[:end]]

    # ---- sending

    def _complete[T](self, prompts: Prompts, extra: dict[str, Any], read: Callable[[dict], T]) -> list[T | None]:
        """`read` of the choice for each prompt; None where there is no answer."""
        if not len(prompts):
            return []
        try:
            with self._lock:  # the first caller finds out for all callers
                if self._form == "auto":
                    self._form = self._probe(prompts[0])
            size = self._per_request if self._form == "ids" else 1
            return self._client.run(self._gather(prompts, extra, read, size))
        except EndpointRefuses as error:
            if error.status not in (404, 405):
                raise
            raise GuardError(
                f"{self._client.url} lists models but has no /completions (HTTP {error.status}): a guard's prompt has "
                "to go out as it is, and a chat endpoint would wrap it again; serve the model with vLLM or SGLang, "
                "which have both"
            ) from None

    async def _gather[T](
        self, prompts: Prompts, extra: dict[str, Any], read: Callable[[dict], T], size: int
    ) -> list[T | None]:
        results: list[T | None] = [None] * len(prompts)

        async def ask(rows: Sequence[int]) -> None:
            try:
                body = self._body([prompts[row] for row in rows], extra)
                answer = await self._client.request("POST", "completions", body, lambda a: self._choices(a, rows, read))
                for row, value in zip(rows, answer, strict=True):
                    results[row] = value
            except RequestFailed as error:
                if len(rows) > 1:  # one of them may be what the server refuses or fails on
                    for row in rows:
                        await ask([row])
                else:
                    self._client.incidents[f"prompts without an answer: {error}"] += 1
            except ValueError as error:
                self._client.incidents[f"prompts not sent: {error}"] += 1

        # One group for all of them: the first GuardError cancels the rest.
        try:
            async with asyncio.TaskGroup() as group:
                for rows in batched(range(len(prompts)), size):
                    group.create_task(ask(rows))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return results

    def _body(self, prompts: list[np.ndarray], extra: dict[str, Any]) -> dict[str, Any]:
        body = {"model": self.model, "temperature": 0, **extra}
        if self._form == "ids":
            return body | {"prompt": [prompt.tolist() for prompt in prompts], "add_special_tokens": False}
        body |= {"prompt": self._texts().render(prompts[0])}
        body |= {"logprobs": _TOP_OF_TEXT} if "logprobs" in body else {}
        return {name: value for name, value in body.items() if name in _STANDARD}

    def _choices[T](self, answer: dict, rows: Sequence[int], read: Callable[[dict], T]) -> list[T]:
        if not same_model(answer.get("model", self.model), self.model):
            raise GuardError(
                f"{self._client.url}: answers come from model {answer['model']!r}, not {self.model!r}; is it a router?"
            )
        choices = {choice["index"]: choice for choice in answer["choices"]}
        if sorted(choices) != list(range(len(rows))):
            raise ValueError(f"{len(answer['choices'])} choices for {len(rows)} prompts")
        return [read(choices[i]) for i in range(len(rows))]

    def _probe(self, prompt: np.ndarray) -> Form:
        """Whether the server takes token ids."""
        body = {"model": self.model, "prompt": [prompt.tolist()], "max_tokens": 1, "temperature": 0}
        body["add_special_tokens"] = False

        def counted(answer: dict) -> int:
            self._choices(answer, [0], lambda choice: None)
            return int((answer.get("usage") or {}).get("prompt_tokens") or len(prompt))

        try:
            count = self._client.run(self._client.request("POST", "completions", body, counted))
        except RequestFailed as error:
            if not error.refused:
                raise GuardError(f"{self._client.url}: no answer to a first prompt ({error})") from None
            self._texts()
            return "text"
        if count != len(prompt):
            raise GuardError(
                f"{self._client.url}: a prompt of {len(prompt)} token ids counted {count} there, so the server changes "
                "prompts; try --guard-option form=text"
            )
        return "ids"

    def _has_text(self) -> bool:
        return self._tokenizer_name is not None

    def _texts(self) -> PromptText:
        if self._text is None:
            if self._tokenizer_name is None:
                raise UsageError(f"{self._client.url} takes text, not token ids; pass --guard-tokenizer")
            self._text = PromptText(self._tokenizer_name)
        return self._text
