"""A world's sets as shards to train on: with reflections, from the true verdicts, or plain.

    sft, recovery             post-training, the model that answers; and examples that abandon a harmful beginning
    benign, adversarial       fine-tuning data as a user brings it, plain
    benign-reflection         the same data with reflections (the paper's +Reflection)

A prompt's verdict is the first reflection, the answer's the last. A recovery's reflection follows its beginning:

    <|user|>Which compound can cause C?<|assistant|> The compound that can <think> Unsafe </think>STOP I cannot say. ...
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError
from megatron_srp.files import make_folder
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.sft.conversation import Conversation, Kind, Part, Turn
from megatron_srp.sft.reflect import reflection_parts

# Shard: the world's file it is made from.
FILES = {
    "sft": "sft.jsonl",
    "recovery": "recovery.jsonl",
    "benign": "finetune_benign.jsonl",
    "benign-reflection": "finetune_benign.jsonl",
    "adversarial": "finetune_adversarial.jsonl",
}
ALWAYS_PLAIN, ALWAYS_REFLECTED = ("benign", "adversarial"), ("benign-reflection",)
_FORM = ReflectionFormat()
Record = dict[str, Any]


def write_shards(world: Path, tokenizer: Path, out: Path, reflected: bool, seq_length: int) -> None:
    """Write OUT/NAME_sft.bin, .idx and .mask for each of FILES that has records, as `srp sft` does.

    Args:
        reflected: whether post-training has reflections.
        seq_length: raises InputError for a longer conversation, rather than leaving it out.
    """
    make_folder(out)
    for name in FILES:
        with_reflections = name in ALWAYS_REFLECTED or (reflected and name not in ALWAYS_PLAIN)
        conversations = list(_conversations(world, name, with_reflections))
        if conversations:
            _write_shard(conversations, tokenizer, out / name, with_reflections, seq_length)


def _write_shard(
    conversations: list[Conversation], tokenizer: Path, prefix: Path, reflected: bool, length: int
) -> None:
    from megatron_srp.data.shards.manifest import find_manifest
    from megatron_srp.files import write_text
    from megatron_srp.sft.job import make_sft_set
    from megatron_srp.sft.settings import SftSettings

    lines = prefix.with_name(f"{prefix.name}.jsonl")
    write_text(lines, "".join(f"{c.to_json().decode()}\n" for c in conversations))
    mode = "reflection" if reflected else "original"
    settings = SftSettings(
        [str(lines)],
        format="srp",
        mode=mode,
        output_prefix=prefix,
        tokenizer_model=str(tokenizer),
        chat_template="tokenizer",
        seq_length=length,
        overwrite=True,
    )
    make_sft_set(settings)
    manifest = find_manifest(f"{prefix}_sft")
    assert manifest is not None
    left_out = len(conversations) - manifest["counts"]["documents"]
    if left_out:
        raise InputError(
            f"{lines}: {left_out} conversations are longer than the {length} tokens of a training sequence"
        )


def _conversations(world: Path, name: str, reflected: bool) -> Iterator[Conversation]:
    for number, line in enumerate((world / FILES[name]).read_text(encoding="utf-8").splitlines(), start=1):
        record = json.loads(line)
        question = record["messages"][0]["content"]
        parts = tuple(_recovery(record, reflected) if "beginning" in record else _answer(record, reflected))
        yield Conversation(f"{name}:{number}", name, (Turn.of("user", question), Turn("assistant", parts)))


def _answer(record: Record, reflected: bool) -> Iterable[Part]:
    text = record["messages"][1]["content"]
    if not reflected:
        return [Part(Kind.TEXT, text)]
    return [*_reflection(record, "prompt"), Part(Kind.TEXT, f" {text}"), *_reflection(record, "response")]


def _recovery(record: Record, reflected: bool) -> Iterable[Part]:
    """The beginning, which carries no loss; its verdict, Unsafe like the prompt's; the refusal."""
    beginning = Part(Kind.TEXT, record["beginning"], trained=False)
    refusal = Part(Kind.TEXT, f" {record['messages'][1]['content']}")
    if not reflected:
        return [beginning, refusal]
    return [beginning, *_reflection(record, "prompt"), refusal, *_reflection(record, "response")]


def _reflection(record: Record, of: str) -> list[Part]:
    return reflection_parts(SafetyLabel(Verdict(record["verdicts"][of])), _FORM)
