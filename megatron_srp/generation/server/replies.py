"""Answers, and pieces of answers, in OpenAI's JSON."""

import time
import uuid
from collections.abc import Callable
from typing import Any

from megatron_srp.generation.guard.policy import Generation
from megatron_srp.generation.server.outcomes import outcome

_FINISH = {"eos": "stop", "length": "length", "unsafe": "content_filter"}


class Reply:
    """The JSON of one request's answers.

    Args:
        chat: whether it is a conversation rather than a text.
        model: the name that clients know it by.
        reflections: whether to return the reflections.
        prompt_tokens: of all prompts together; one with several answers counts once, as at OpenAI.
        logprobs: gives those of the first N characters of an answer, if they are wanted.
    """

    def __init__(
        self,
        chat: bool,
        model: str,
        reflections: bool,
        prompt_tokens: int,
        logprobs: Callable[[Generation, int], dict[str, Any] | None] = lambda generation, length: None,
    ) -> None:
        self._chat, self._reflections, self._prompt_tokens = chat, reflections, prompt_tokens
        self._logprobs = logprobs
        kind = "chat.completion" if chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }
        self._piece_head = self._head | {"object": "chat.completion.chunk" if chat else kind}

    def whole(self, texts: list[str], generations: list[Generation], cut: list[bool]) -> dict[str, Any]:
        """All answers at once. `cut` says which of them a stop text has ended."""
        choices = []
        for i, (text, generation) in enumerate(zip(texts, generations, strict=True)):
            said: dict[str, Any] = {"text": text}
            if self._chat:
                said = {"message": {"role": "assistant", "content": text, "refusal": None}}
            choices.append({"index": i, **said, **self._end(generation, cut[i], len(text))})
        return self._head | {"choices": choices, "usage": self.usage(generations)}

    def first(self, index: int) -> dict[str, Any] | None:
        """The piece that a conversation's answer begins with."""
        if not self._chat:
            return None
        return self._piece(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, text: str) -> dict[str, Any]:
        return self._piece(index, {"content": text} if self._chat else text)

    def last(self, index: int, generation: Generation, cut: bool, length: int = 0) -> dict[str, Any]:
        """The piece that says why the answer has ended, after this many characters."""
        return self._piece(index, {} if self._chat else "", self._end(generation, cut, length))

    def usage_piece(self, generations: list[Generation]) -> dict[str, Any]:
        return self._piece_head | {"choices": [], "usage": self.usage(generations)}

    def usage(self, generations: list[Generation]) -> dict[str, int]:
        """Tokens; those of an answer are all that were generated, hidden ones included."""
        written = sum(generation.num_tokens for generation in generations)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self._prompt_tokens + written,
        }

    def _piece(self, index: int, said: Any, end: dict[str, Any] | None = None) -> dict[str, Any]:
        end = end or {"finish_reason": None, "logprobs": None}
        return self._piece_head | {"choices": [{"index": index, "delta" if self._chat else "text": said, **end}]}

    def _end(self, generation: Generation, cut: bool, length: int) -> dict[str, Any]:
        stopped = cut and generation.stop_reason != "unsafe"  # a verdict outranks a stop text
        reason = "stop" if stopped else _FINISH[generation.stop_reason]
        end: dict[str, Any] = {"finish_reason": reason, "logprobs": self._logprobs(generation, length)}
        return end | self._guard(outcome(generation))

    def _guard(self, record: dict[str, Any]) -> dict[str, Any]:
        """The reflections, if requested, and always how much was not judged and how much was not shown."""
        counts = {key: record[key] for key in ("unjudged_tokens", "withheld_tokens")}
        if self._reflections:
            return {"guard": {key: record[key] for key in ("stop_reason", "reflections", "forced")} | counts}
        return {"guard": counts} if any(counts.values()) else {}
