"""A conversation, before and after reflections are inserted, and its form as a line of JSON.

    {"id": "chat.jsonl:1", "source": "chat", "turns": [
        {"role": "user", "text": "How do I bake bread?"},
        {"role": "assistant", "parts": [{"reflection": "<think> Safe </think>"},
            {"text": "Mix flour and water."}, {"reflection": "<think> Safe </think>"}]}]}

Roles: system, user, assistant, tool, and `call` for an assistant's turn that calls tools, whose text is JSON. Only the
assistant's turns are answers, with reflections and loss.

Reflections and stops have their own fields and text is only ever text: no `<|endoftext|>` or
`<think> Safe </think>` that somebody wrote can become one.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from megatron_srp.reflection import ReflectionFormat

CALL = "call"
CONTEXT_ROLES = ("system", "user", "tool", CALL)


class Kind(StrEnum):
    """The kind of a part of a turn."""

    TEXT = "text"
    REFLECTION = "reflection"
    STOP = "stop"  # becomes the tokenizer's end-of-text token


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a response: its kind, its text ("" for a stop), and whether it counts in the loss."""

    kind: Kind
    text: str = ""
    trained: bool = True


STOP = Part(Kind.STOP)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one role says. Only an assistant's turn has more than one part."""

    role: str
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, role: str, text: str) -> "Turn":
        return cls(role, (Part(Kind.TEXT, text, role == "assistant"),))

    @property
    def text(self) -> str:
        """The whole text, without reflections and stops."""
        return "".join(part.text for part in self.parts if part.kind is Kind.TEXT)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, where they come from, and the name of their data set."""

    id: str
    source: str
    turns: tuple[Turn, ...]

    def characters(self) -> int:
        return sum(len(turn.text) for turn in self.turns)

    def to_json(self) -> bytes:
        """One line, without a line break."""
        turns = [
            {"role": turn.role, "parts": [_part_to_json(part) for part in turn.parts]}
            if turn.role == "assistant"
            else {"role": turn.role, "text": turn.text}
            for turn in self.turns
        ]
        return orjson.dumps({"id": self.id, "source": self.source, "turns": turns})


def _part_to_json(part: Part) -> dict[str, Any]:
    value = True if part.kind is Kind.STOP else part.text
    return {str(part.kind): value} | ({} if part.trained else {"trained": False})


def turns_from_json(turns: Any, form: ReflectionFormat) -> list[Turn]:
    """The inverse of `to_json`; raises ValueError with the reason for anything else."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("'turns' is not a list of objects")
    return [_turn_from_json(turn, form) for turn in turns]


def _turn_from_json(turn: dict[str, Any], form: ReflectionFormat) -> Turn:
    role, parts = turn.get("role"), turn.get("parts")
    if role == "assistant" and isinstance(parts, list):
        return Turn("assistant", tuple(_part_from_json(part, form) for part in parts))
    if role in CONTEXT_ROLES and isinstance(turn.get("text"), str):
        return Turn.of(role, turn["text"])
    raise ValueError("a turn has a 'role' and, for the assistant, 'parts', for system, user, tool and call 'text'")


def _part_from_json(part: Any, form: ReflectionFormat) -> Part:
    kinds = [kind for kind in Kind if isinstance(part, dict) and kind in part]
    trained = part.get("trained", True) if kinds else True
    if len(kinds) != 1 or not isinstance(trained, bool):
        raise ValueError("a part is one of 'text', 'reflection' and 'stop', with 'trained': false if not learned")
    (kind,) = kinds
    value = part[kind]
    if kind is Kind.STOP and value is True:
        return Part(kind, trained=trained)
    if kind is Kind.STOP or not isinstance(value, str):
        raise ValueError(f"{str(kind)!r} is {value!r}; 'stop' is true, the others are strings")
    if kind is Kind.REFLECTION and form.parse(value) is None:
        raise ValueError(f"{value!r} is not a reflection such as '{form.open} Safe {form.close}'")
    return Part(kind, value, trained)
