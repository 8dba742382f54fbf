"""Answers to a file of prompts: JSON lines in, the same lines with their answers out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.errors import InputError
from megatron_srp.generation.answers_file import AnswersFile
from megatron_srp.generation.engines.continuous import answer_all
from megatron_srp.generation.engines.limits import Limits
from megatron_srp.generation.engines.request import Options
from megatron_srp.generation.guard.policy import to_record
from megatron_srp.generation.records import read_records

if TYPE_CHECKING:
    from megatron_srp.generation.engines.prompted_model import PromptedModel
    from megatron_srp.generation.engines.request import Request

Record = dict[str, Any]


def read_prompts(path: Path, chat: bool = False) -> Iterator[Record]:
    """Lines with `prompt` (a text to continue) or `messages` (a conversation); raises InputError.

    Args:
        chat: make each prompt a conversation, of one turn of a user.
    """
    for where, record in read_records(path):
        if not (_is_prompt(record) or _is_conversation(record)):
            raise InputError(
                f'{where}: needs {{"prompt": "text"}} or {{"messages": [{{"role": "user", "content": "text"}}]}}'
            )
        yield _as_chat(record) if chat and "prompt" in record else record


def _as_chat(record: Record) -> Record:
    rest = {key: value for key, value in record.items() if key != "prompt"}
    return rest | {"messages": [{"role": "user", "content": record["prompt"]}]}


def raw_prompts_note(model: "PromptedModel", records: Sequence[Record]) -> str | None:
    """What a user should know who passes prompts to a chat model."""
    prompts = sum("prompt" in record for record in records)
    if not (prompts and model.tokenizer.chat_template):
        return None
    return (
        f"note: the model has a chat template, but {prompts:,} of the lines have a `prompt`, which is continued as raw "
        "text; pass --chat to ask it as a user's turn"
    )


def answer_prompts(
    model: "PromptedModel",
    records: Sequence[Record],
    options: Options,
    out: Path,
    limits: Limits,
    prefill: str = "",
    settings: Record | None = None,
) -> Counter[str]:
    """Answer all prompts, and write them to `out` in their order; a run that was stopped resumes.

    Args:
        settings: what else decides the answers; a run is resumed only with the same.

    Returns:
        How many answers ended for which reason.
    """
    requests = [_request(model, record, options, prefill) for record in records]  # a mistake shows before any answer
    decides = {"prompts": list(records), "options": repr(options), "prefill": prefill, **(settings or {})}
    with AnswersFile(out, decides) as file:
        left = [i for i in range(len(requests)) if i not in file.done]
        for at, generation in answer_all(model.generator, [requests[i] for i in left], limits):
            file.add(left[at], records[left[at]] | to_record(generation))
        file.finish()
    return Counter(record["stop_reason"] for _, record in read_records(out))


def _request(model: "PromptedModel", record: Record, options: Options, prefill: str) -> "Request":
    if "prompt" not in record:
        return model.chat(record["messages"], options, prefill)
    if not prefill:
        model.refuse_unfinished(record["prompt"])
    return model.complete(record["prompt"], options, prefill)


def _is_prompt(record: Record) -> bool:
    return isinstance(record.get("prompt"), str) and "messages" not in record


def _is_conversation(record: Record) -> bool:
    turns: Any = record.get("messages")
    texts = (turn.get(key) for turn in turns for key in ("role", "content")) if _are_dicts(turns) else [None]
    return "prompt" not in record and bool(turns) and all(isinstance(text, str) for text in texts)


def _are_dicts(turns: Any) -> bool:
    return isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)
