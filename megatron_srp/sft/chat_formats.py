"""The formats of chat data, as rows of JSONL or Parquet files.

    srp        {"turns": [...]}   what srp sft writes, see `conversation`
    messages   {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    sharegpt   {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
    alpaca     {"instruction": "...", "input": "...", "output": "..."}   `input` may be missing or empty
    dolly      {"instruction": "...", "context": "...", "response": "..."}   `context` likewise
    pairs      {"prompt": "...", "response": "..."}, or question/answer, prompt/completion, query/response; each may
               be a list of messages

Messages may have their content in text parts, and the list may be JSON in a string. A new format is a function and
a line in `FORMATS`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import CALL, Turn, turns_from_json

Record = Mapping[str, Any]
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
ROLES |= {"developer": "system", "function": "tool", "observation": "tool", "ipython": "tool"}
ROLES |= {role: role for role in ("system", "user", "assistant", "tool")}
PAIRS = (("prompt", "response"), ("question", "answer"), ("prompt", "completion"), ("query", "response"))


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {'missing' if value is None else type(value).__name__}, not a string")
    return value


def _chat(record: Record, key: str) -> list[Turn]:
    entries = record[key]
    if isinstance(entries, str):
        try:
            entries = json.loads(entries)
        except ValueError:
            raise ValueError(f"{key!r} is a text, not a list of messages") from None
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(f"{key!r} is not a list of objects with 'role' and 'content', or 'from' and 'value'")
    return [_turn(entry) for entry in entries]


def _turn(entry: Record) -> Turn:
    name = _text(entry, "from" if "role" not in entry and "from" in entry else "role")
    if name.lower() not in ROLES:
        raise ValueError(f"unknown role {name!r}; choose from {', '.join(ROLES)}")
    if calls := entry.get("tool_calls"):
        return Turn.of(CALL, json.dumps({"content": entry.get("content"), "tool_calls": calls}, ensure_ascii=False))
    return Turn.of(ROLES[name.lower()], _content(entry, "value" if "value" in entry else "content"))


def _content(entry: Record, key: str) -> str:
    """A message's text, which may be in parts."""
    parts = entry.get(key)
    if not isinstance(parts, list):
        return _text(entry, key)
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"{key!r} has a part of type {kind!r}; only parts of type 'text' can be learned")
    return "".join(part["text"] for part in parts)


def _instruction(context: str, answer: str) -> Callable[[Record], list[Turn]]:
    """The reader of records with an instruction, a text that it is about, and an answer."""

    def read(record: Record) -> list[Turn]:
        instruction, extra = _text(record, "instruction"), record.get(context)
        prompt = f"{instruction}\n\n{extra}" if isinstance(extra, str) and extra.strip() else instruction
        return [Turn.of("user", prompt), Turn.of("assistant", _text(record, answer))]

    return read


def _side(record: Record, key: str, role: str) -> list[Turn]:
    """A prompt or a response: a text or messages."""
    return _chat(record, key) if isinstance(record.get(key), list) else [Turn.of(role, _text(record, key))]


def _pairs(record: Record) -> list[Turn]:
    prompt, response = next((pair for pair in PAIRS if record.keys() >= {*pair}), PAIRS[0])
    return [*_side(record, prompt, "user"), *_side(record, response, "assistant")]


def _prompts(record: Record) -> list[Turn]:
    keys = ("prompt", "question", "instruction", "goal", "behavior")
    return _side(record, next((key for key in keys if key in record), keys[0]), "user")


# By name: the sets of keys that identify it (any one is enough), and the function that reads a record.
FORMATS: dict[str, tuple[tuple[set[str], ...], Callable[[Record], list[Turn]]]] = {
    "messages": (({"messages"},), lambda record: _chat(record, "messages")),
    "sharegpt": (({"conversations"},), lambda record: _chat(record, "conversations")),
    "alpaca": (({"instruction", "output"},), _instruction("input", "output")),
    "dolly": (({"instruction", "response"},), _instruction("context", "response")),
    "pairs": (tuple(set(pair) for pair in PAIRS), _pairs),
}
NAMES = ("srp", *FORMATS)


def check_format(name: str | None) -> None:
    """Raises UsageError for an unknown format; None means to detect it from each file's first row."""
    if name is not None and name not in NAMES:
        raise UsageError(f"unknown --format {name!r}; {did_you_mean(name, list(NAMES))}")


def detect_format(record: Record, prompts_alone: bool = False) -> str:
    """The name of the format a record has; raises ValueError when it has none.

    Args:
        prompts_alone: allow records without a response: they are "prompts".
    """
    if "turns" in record:
        return "srp"
    for name, (key_sets, _) in FORMATS.items():
        if any(record.keys() >= keys for keys in key_sets):
            return name
    if prompts_alone:
        return "prompts"
    raise ValueError(
        f"no chat format has the keys {', '.join(map(repr, list(record)[:8])) or '(none)'}; pass the file's format "
        f"with --format ({', '.join(NAMES)}), or rename them"
    )


def read_turns(record: Record, name: str, form: ReflectionFormat) -> list[Turn]:
    """The turns of a record in the format `name`; raises ValueError with the reason it has none."""
    if name == "srp":
        return turns_from_json(record.get("turns"), form)
    if name == "prompts":
        return _prompts(record)
    key_sets, read = FORMATS[name]
    if name in ("messages", "sharegpt") and not record.keys() >= key_sets[0]:
        raise ValueError(f"no key {min(key_sets[0])!r}, which the format {name} has")
    return read(record)
