"""The formats of chat data, as rows of JSONL or Parquet files.

    srp        {"turns": [...]}   what srp sft writes, see `conversation`
    messages   {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    sharegpt   {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
    alpaca     {"instruction": "...", "input": "...", "output": "..."}   `input` may be missing or empty
    pairs      {"prompt": "...", "response": "..."}, or question/answer, prompt/completion, query/response

A new format is a function and a line in `FORMATS`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import Turn, turns_from_json

Record = Mapping[str, Any]
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
ROLES |= {role: role for role in ("system", "user", "assistant")}
PAIRS = (("prompt", "response"), ("question", "answer"), ("prompt", "completion"), ("query", "response"))


def _text(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {'missing' if value is None else type(value).__name__}, not a string")
    return value


def _chat(record: Record, key: str, role_key: str, text_key: str) -> list[Turn]:
    entries = record[key]
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(f"{key!r} is not a list of objects with {role_key!r} and {text_key!r}")
    turns = []
    for entry in entries:
        name = _text(entry, role_key)
        if name.lower() not in ROLES:
            raise ValueError(f"unknown role {name!r}; choose from {', '.join(ROLES)}")
        turns.append(Turn.of(ROLES[name.lower()], _text(entry, text_key)))
    return turns


def _alpaca(record: Record) -> list[Turn]:
    instruction, extra = _text(record, "instruction"), record.get("input")
    prompt = f"{instruction}\n\n{extra}" if isinstance(extra, str) and extra.strip() else instruction
    return [Turn.of("user", prompt), Turn.of("assistant", _text(record, "output"))]


def _pairs(record: Record) -> list[Turn]:
    prompt, response = next((pair for pair in PAIRS if record.keys() >= {*pair}), PAIRS[0])
    return [Turn.of("user", _text(record, prompt)), Turn.of("assistant", _text(record, response))]


def _prompts(record: Record) -> list[Turn]:
    keys = ("prompt", "question", "instruction", "goal", "behavior")
    return [Turn.of("user", _text(record, next((key for key in keys if key in record), keys[0])))]


# By name: the sets of keys that identify it (any one is enough), and the function that reads a record.
FORMATS: dict[str, tuple[tuple[set[str], ...], Callable[[Record], list[Turn]]]] = {
    "messages": (({"messages"},), lambda record: _chat(record, "messages", "role", "content")),
    "sharegpt": (({"conversations"},), lambda record: _chat(record, "conversations", "from", "value")),
    "alpaca": (({"instruction", "output"},), _alpaca),
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
    if len(key_sets) == 1 and not record.keys() >= key_sets[0] and name != "alpaca":
        raise ValueError(f"no key {min(key_sets[0])!r}, which the format {name} has")
    return read(record)
