"""Answers to a file of prompts: JSON lines in, the same lines with their answers out."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.errors import InputError
from megatron_srp.generation.engines.request import Options
from megatron_srp.generation.guard.policy import to_record
from megatron_srp.generation.records import read_records

if TYPE_CHECKING:
    from megatron_srp.generation.engines.prompted_model import PromptedModel
    from megatron_srp.generation.engines.request import Request

Record = dict[str, Any]


def read_prompts(path: Path) -> Iterator[Record]:
    """Lines with `prompt` (a text to continue) or `messages` (a conversation); raises InputError."""
    for where, record in read_records(path):
        if not (_is_prompt(record) or _is_conversation(record)):
            raise InputError(
                f'{where}: needs {{"prompt": "text"}} or {{"messages": [{{"role": "user", "content": "text"}}]}}'
            )
        yield record


def answer_prompts(
    model: "PromptedModel", records: Sequence[Record], options: Options, out: Path, batch_size: int, prefill: str = ""
) -> Counter[str]:
    """Answer all prompts, `batch_size` at a time, and write them to `out`, all or nothing.

    Returns:
        How many answers ended for which reason.
    """

    def request(record: Record) -> "Request":
        if "prompt" in record:
            if not prefill:
                model.refuse_unfinished(record["prompt"])
            return model.complete(record["prompt"], options, prefill)
        return model.chat(record["messages"], options, prefill)

    requests = [request(record) for record in records]  # all of them first: a mistake shows before any answer
    partial = out.with_name(out.name + ".partial")
    reasons: Counter[str] = Counter()
    with partial.open("w", encoding="utf-8") as file:
        for at in range(0, len(requests), batch_size):
            found = model.generator.generate(requests[at : at + batch_size])
            for record, generation in zip(records[at:], found, strict=False):
                file.write(json.dumps(record | to_record(generation), ensure_ascii=False) + "\n")
                reasons[generation.stop_reason] += 1
    partial.replace(out)
    return reasons


def _is_prompt(record: Record) -> bool:
    return isinstance(record.get("prompt"), str) and "messages" not in record


def _is_conversation(record: Record) -> bool:
    turns: Any = record.get("messages")
    texts = (turn.get(key) for turn in turns for key in ("role", "content")) if _are_dicts(turns) else [None]
    return "prompt" not in record and bool(turns) and all(isinstance(text, str) for text in texts)


def _are_dicts(turns: Any) -> bool:
    return isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)
