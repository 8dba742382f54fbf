"""Hints from one segment to the next (SRP-Hint): asked of a chat model, and stored with the verdicts.

    STORE/hints/hints.json                             who wrote them, and what was asked
    STORE/hints/KEY/FINGERPRINT/000000000000.parquet   one file per part of the store
    STORE/hints/KEY/FINGERPRINT/000000000000.jsonl     replies of an unfinished file

A row is a document: its row in the input file and a list over its segments, null where there is no hint.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from megatron_srp.annotation.engines.http_client import EndpointClient
from megatron_srp.annotation.store.store import AnnotationStore, Part
from megatron_srp.schema import Verdict

MAX_WORDS = 15  # the paper's, appendix A
FOLDER = "hints"
PROMPT = Path(__file__).with_name("hint_prompt.yaml")
_PLACE = re.compile(r"\{\{(this|next)\}\}")
_LABEL = re.compile(r"^\W*hint\W*:\s*", re.IGNORECASE)
_QUOTES = "\"'“”‘’`*_ "


@dataclass(frozen=True, slots=True)
class HintPrompt:
    """The question, as chat messages."""

    version: int
    system: str
    user: str

    def messages(self, this: str, following: str) -> list[dict[str, str]]:
        """The messages for two segments. They are inserted verbatim, without placeholders of their own; a name
        of a special token in them gets a ZERO WIDTH SPACE, as the server would read it as the token."""
        words = {"this": this.strip(), "next": following.strip()}
        user = _PLACE.sub(lambda match: words[match[1]].replace("<|", "<\u200b|"), self.user)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


@cache
def load_prompt() -> HintPrompt:
    return HintPrompt(**yaml.safe_load(PROMPT.read_text(encoding="utf-8")))


def clean_hint(reply: str) -> tuple[str, str]:
    """The hint in a model's reply, and why there is none: "empty", "overlong" or "unusable"; one of the two."""
    text = " ".join(reply.rpartition("</think>")[2].split())  # a reasoning model's thoughts come first
    text = _LABEL.sub("", text).strip(_QUOTES)
    if not text:
        return "", "empty"
    if len(text.split()) > MAX_WORDS:
        return "", "overlong"
    return (text, "") if not set(text) & set("<>") and text.isprintable() else ("", "unusable")


def is_hint(text: str) -> bool:
    """Whether a stored text is one that `clean_hint` accepts."""
    words = len(text.split())
    return 0 < words <= MAX_WORDS and text == text.strip() and not set(text) & set("<>") and text.isprintable()


def hintable(part: Part) -> np.ndarray:
    """bool[S]: which segments are Safe, and followed by a Safe one of the same document."""
    # A failed segment's code, -1, selects the last entry, which is not Safe.
    safe = np.array([*(label.verdict is Verdict.SAFE for label in part.labels), False])[part.codes]
    follows = np.append(safe[1:], False)[: len(safe)]
    follows[part.offsets[1:][np.diff(part.offsets) > 0] - 1] = False
    return safe & follows


class HintWriter:
    """A chat model that writes hints.

    Args:
        client: client of its endpoint.
        model: the name under which the endpoint lists it.
        max_tokens: maximum tokens per reply; a reasoning model needs more.
    """

    def __init__(self, client: EndpointClient, model: str, max_tokens: int = 256) -> None:
        self.client, self.model, self.max_tokens = client, model, max_tokens
        self.prompt = load_prompt()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything the hints depend on."""
        return {"model": self.model, "prompt_version": self.prompt.version, "max_tokens": self.max_tokens}

    async def ask(self, this: str, following: str) -> str:
        """The model's reply; raises RequestFailed."""
        body = {"model": self.model, "messages": self.prompt.messages(this, following), "temperature": 0}
        return await self.client.request("POST", "chat/completions", body | {"max_tokens": self.max_tokens}, _content)


def _content(answer: dict[str, Any]) -> str:
    content = answer["choices"][0]["message"].get("content")
    if not isinstance(content, str | None):
        raise ValueError(f"content is {type(content).__name__}")
    return content or ""  # all tokens were spent on thinking


class Replies:
    """The replies of one unfinished file: each is on disk before it counts, and none is asked for twice.

    Args:
        path: of the journal, which is read and appended to.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.known = dict(self._read())
        self._file = path.open("a", encoding="utf-8")

    def _read(self) -> Iterator[tuple[int, str]]:
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if len(whole) < len(text):  # a line that a kill cut short
            self.path.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            entry = json.loads(line)
            yield entry["segment"], entry["reply"]

    def add(self, segment: int, reply: str) -> None:
        self.known[segment] = reply
        self._file.write(json.dumps({"segment": segment, "reply": reply}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class HintStore(AnnotationStore):
    """The hints of a store; `create` refuses other settings as it does for verdicts."""

    HEADER = "hints.json"

    def replies_path(self, key: str, fingerprint: str, first_row: int) -> Path:
        return self.part_path(key, fingerprint, first_row).with_suffix(".jsonl")
