"""A chat model at an OpenAI-compatible endpoint as a judge."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import xxhash

from megatron_srp.annotation.engines.http_client import EndpointClient, RequestFailed
from megatron_srp.evaluation.judges import QUESTIONS, Exchange, Judge, Opinion
from megatron_srp.evaluation.judges.prompt_texts import fill, load_texts

PROMPTS = "prompts.yaml"
_WORD = re.compile(r"[a-z]+")


class LLMJudge(Judge):
    """Asks with prompts.yaml, one request per exchange, greedily.

    Args:
        client: for its endpoint.
        model: its name at the endpoint.
        max_tokens: maximum tokens of a reply; a reasoning model needs more.
    """

    name = "llm"
    questions = QUESTIONS

    def __init__(self, client: EndpointClient, model: str, max_tokens: int = 16) -> None:
        self.client, self.model, self.max_tokens = client, model, max_tokens

    @property
    def settings(self) -> dict[str, Any]:
        return {"model": self.model, "prompts": load_texts(PROMPTS)["version"], "max_tokens": self.max_tokens}

    def reads(self, exchange: Exchange, question: str) -> Any:
        return [exchange.request, exchange.answer, *([exchange.reference] if question == "preference" else [])]

    def close(self) -> None:
        self.client.close()

    def judge(self, exchanges: Sequence[Exchange], question: str) -> list[Opinion]:
        return self.client.run(self._gather(exchanges, question))

    async def _gather(self, exchanges: Sequence[Exchange], question: str) -> list[Opinion]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(exchange, question)) for exchange in exchanges]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask(self, exchange: Exchange, question: str) -> Opinion:
        body = {"model": self.model, "temperature": 0, "max_tokens": self.max_tokens}
        try:
            reply = await self.client.request(
                "POST", "chat/completions", body | {"messages": self.messages(exchange, question)}, _content
            )
        except RequestFailed as error:
            return Opinion(None, str(error))
        return self._read(reply, exchange, question)

    def messages(self, exchange: Exchange, question: str) -> list[dict[str, str]]:
        """The question about an exchange. A name of a special token in a text gets a ZERO WIDTH SPACE, as the
        server would take it for the token."""
        words = {"request": exchange.request, "answer": exchange.answer}
        if question == "preference":
            mine, theirs = ("second", "first") if _swapped(exchange) else ("first", "second")
            words |= {mine: exchange.answer, theirs: exchange.reference}
        prompt = load_texts(PROMPTS)[question]
        user = fill(prompt["user"], {name: text.strip().replace("<|", "<\u200b|") for name, text in words.items()})
        return [{"role": "system", "content": prompt["system"]}, {"role": "user", "content": user}]

    @staticmethod
    def _read(reply: str, exchange: Exchange, question: str) -> Opinion:
        word = _WORD.search(reply.rpartition("</think>")[2].lower())  # what a reasoning model thought comes first
        yes, no = ("yes", "no")
        if question == "preference":
            yes, no = ("second", "first") if _swapped(exchange) else ("first", "second")
        if word is None or word[0] not in (yes, no):
            return Opinion(None, f"the reply is neither {yes} nor {no}: {reply[:60]!r}")
        return Opinion(word[0] == yes)


def _swapped(exchange: Exchange) -> bool:
    """Whether the answer is shown after the reference: for half of all, the same half in every run."""
    return xxhash.xxh3_64_intdigest(f"{exchange.request}\0{exchange.answer}".encode()) % 2 == 1


def _content(answer: dict[str, Any]) -> str:
    content = answer["choices"][0]["message"].get("content")
    if not isinstance(content, str | None):
        raise ValueError(f"content is {type(content).__name__}")
    return content or ""
