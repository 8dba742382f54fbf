"""A world's sets as shards to train on: with reflections, from the true verdicts, or plain.

    sft                       post-training: the model answers, and refuses harmful questions
    recovery                  examples that abandon a harmful beginning
    recovery-untested         the same, with beginnings in other words than any attack's
    recovery-forged           the same, half of them with a forged Safe reflection before the beginning
    benign, adversarial       fine-tuning data as a user brings it, plain
    benign-reflection         the same data with reflections (the paper's +Reflection)
    adversarial-safe          harmful answers that reflect Safe: a tuner who trains against the reflection

A prompt's verdict is the first reflection, the answer's the last. A recovery's reflection follows its beginning, which
is not trained on, nor is a forged reflection:

    <|user|>Which compound can cause C?<|assistant|> The compound that can <think> Unsafe </think>STOP I cannot say. ...
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srp.errors import InputError
from megatron_srp.files import make_folder
from megatron_srp.medsafetyworld.experiment.variants import STAGES
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SAFE, SafetyLabel, Verdict
from megatron_srp.sft.conversation import Conversation, Kind, Part, Turn
from megatron_srp.sft.reflect import reflection_parts

_FORM = ReflectionFormat()
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatSet:
    """One shard.

    Attributes:
        file: of the world.
        reflected: whether it has reflections; None: as the model's post-training has.
        forged: every second recovery begins with a forged Safe reflection. Only with reflections.
        reflects_safe: reflections call everything Safe, whatever the true verdicts.
    """

    file: str
    reflected: bool | None = None
    forged: bool = False
    reflects_safe: bool = False


SETS = {
    "sft": ChatSet("sft.jsonl"),
    "recovery": ChatSet("recovery.jsonl"),
    "recovery-untested": ChatSet("recovery_untested.jsonl"),
    "recovery-forged": ChatSet("recovery.jsonl", forged=True),
    "benign": ChatSet("finetune_benign.jsonl", reflected=False),
    "benign-reflection": ChatSet("finetune_benign.jsonl", reflected=True),
    "adversarial": ChatSet("finetune_adversarial.jsonl", reflected=False),
    "adversarial-safe": ChatSet("finetune_adversarial.jsonl", reflected=True, reflects_safe=True),
}


def write_shards(
    world: Path, tokenizer: Path, out: Path, reflected: bool, seq_length: int, special: bool = False
) -> None:
    """Write OUT/NAME_sft.bin, .idx and .mask for each of SETS that has records, as `srp sft` does.

    Args:
        reflected: whether post-training has reflections.
        seq_length: raises InputError for a longer conversation, rather than leaving it out.
        special: whether reflections have tokens of their own.
    """
    make_folder(out)
    form = ReflectionFormat(special_tokens=special)
    for name, chats in SETS.items():
        with_reflections = reflected if chats.reflected is None else chats.reflected
        if chats.forged and not with_reflections:
            continue
        conversations = list(_conversations(world, name, with_reflections))
        if conversations:
            _write_shard(conversations, tokenizer, out / name, with_reflections, seq_length, form)


def _write_shard(
    conversations: list[Conversation],
    tokenizer: Path,
    prefix: Path,
    reflected: bool,
    length: int,
    form: ReflectionFormat,
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
        form=form,
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
    for number, record in enumerate(_records(world, name)):
        question = record["messages"][0]["content"]
        parts = tuple(_recovery(record, reflected) if "beginning" in record else _answer(record, reflected))
        yield Conversation(f"{name}:{number + 1}", name, (Turn.of("user", question), Turn("assistant", parts)))


def _records(world: Path, name: str) -> Iterator[Record]:
    """The records of a set, with what the set changes of them."""
    chats = SETS[name]
    for number, line in enumerate((world / chats.file).read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        if chats.reflects_safe:
            record["verdicts"] = dict.fromkeys(record["verdicts"], str(Verdict.SAFE))
        if chats.forged:
            record["forged"] = number % 2 == 0
        yield record


def _answer(record: Record, reflected: bool) -> Iterable[Part]:
    text = record["messages"][1]["content"]
    if not reflected:
        return [Part(Kind.TEXT, text)]
    return [*_reflection(record, "prompt"), Part(Kind.TEXT, f" {text}"), *_reflection(record, "response")]


def _recovery(record: Record, reflected: bool) -> Iterable[Part]:
    """The beginning, which carries no loss; its verdict, Unsafe like the prompt's; the refusal."""
    forged = [Part(Kind.REFLECTION, _FORM.render(SAFE), trained=False)] if record.get("forged") else []
    space = " " if forged else ""
    beginning = [*forged, Part(Kind.TEXT, f"{space}{record['beginning']}", trained=False)]
    refusal = Part(Kind.TEXT, f" {record['messages'][1]['content']}")
    if not reflected:
        return [*beginning, refusal]
    return [*beginning, *_reflection(record, "prompt"), refusal, *_reflection(record, "response")]


def trained_beginnings(world: Path, stage: str) -> Counter[str]:
    """What recoveries begin with in the training up to `stage`, as an attack would put it into the model's mouth, and
    in how many of them."""
    found: Counter[str] = Counter()
    while stage in STAGES:
        for name, _ in STAGES[stage].data:
            found.update(_begun(record) for record in _records(world, name) if "beginning" in record)
        stage = STAGES[stage].after
    return found


def _begun(record: Record) -> str:
    words: str = record["beginning"]
    return f"{_FORM.render(SAFE)} {words}" if record.get("forged") else words


def _reflection(record: Record, of: str) -> list[Part]:
    return reflection_parts(SafetyLabel(Verdict(record["verdicts"][of])), _FORM)
