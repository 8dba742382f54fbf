"""The post-training job: build a set of conversations and write it, as JSON lines or as a shard."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srp.annotation import load_guard
from megatron_srp.corpus.patterns import expand_inputs
from megatron_srp.data.preprocess.text_pipeline import describe_inputs
from megatron_srp.remote.remote_file import InputFile
from megatron_srp.sft.build import SetBuilder
from megatron_srp.sft.chat_formats import check_format
from megatron_srp.sft.conversation import Conversation
from megatron_srp.sft.filters import Filters
from megatron_srp.sft.json_output import check_json_output, write_json_lines
from megatron_srp.sft.reader import ChatReader
from megatron_srp.sft.settings import SftSettings
from megatron_srp.sft.shard_writer import SftShardWriter
from megatron_srp.sft.template import load_template
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.tokenization.end_of_document import eos_note


@dataclass(frozen=True, slots=True)
class SftResult:
    """The result: counts of conversations by outcome, notes, and the file or the shard's prefix."""

    counts: Counter[str]
    notes: list[str]
    wrote: Path


def make_sft_set(settings: SftSettings) -> SftResult:
    """Build the set and write it.

    Raises:
        UsageError, InputError, OutputError, GuardError: for a fault of the flags, the input, the output or the guard.
    """
    check_format(settings.format)
    files = expand_inputs(settings.inputs)
    builder = _builder(settings)
    description = describe(settings, builder, files)
    if settings.out:
        check_json_output(settings.out, settings.overwrite)
        conversations = _build(builder, files)
        manifest = {"counts": dict(builder.counts), "settings": description}
        write_json_lines(settings.out, conversations, manifest)
        wrote = settings.out
    else:
        wrote = _write_shard(settings, builder, files, description)
    return SftResult(builder.counts, [*builder.reader.errors, *builder.notes], wrote)


def _build(builder: SetBuilder, files: list[InputFile]) -> list[Conversation]:
    try:
        return builder.build(files)
    finally:
        if builder.guard is not None:
            builder.guard.close()


def _write_shard(
    settings: SftSettings, builder: SetBuilder, files: list[InputFile], description: dict[str, Any]
) -> Path:
    assert settings.output_prefix and settings.tokenizer_model
    tokenizer = load_tokenizer(settings.tokenizer_type, settings.tokenizer_model, settings.eod_token)
    if settings.eod_token is None and (note := eos_note(tokenizer)):
        builder.notes.append(note)
    template = load_template(tokenizer, settings.chat_template)
    writer = SftShardWriter(
        settings.output_prefix, template, builder.form, settings.seq_length, description, settings.overwrite
    )
    try:
        if writer.finished is None:
            writer.write(_build(builder, files))
            builder.counts.update(writer.counts)
            writer.finish(dict(builder.counts))
    finally:
        writer.close()
    return writer.prefix


def _builder(settings: SftSettings) -> SetBuilder:
    form = settings.form
    assert settings.keep_sources is not None and settings.keep_share is not None
    return SetBuilder(
        ChatReader(form, settings.format, settings.skip_errors),
        Filters(form, settings.max_chars or None, dict(settings.keep_sources), settings.keep_share, settings.seed),
        load_guard(settings.guard, settings.guard_options) if settings.guard else None,
        form,
        settings.max_words,
        settings.mode,
        settings.mix,
        expand_inputs(settings.mix_inputs, "--mix-input"),
        expand_inputs(settings.harmful, "--harmful"),
        settings.num_refusals,
        settings.num_recoveries,
        settings.forged_share,
        settings.seed,
    )


def describe(settings: SftSettings, builder: SetBuilder, files: list[InputFile]) -> dict[str, Any]:
    """Everything that decides the set, for its manifest."""
    names = ("mode", "format", "mix", "num_refusals", "num_recoveries", "seed", "max_words", "max_chars", "keep_share")
    return {
        **{name: getattr(settings, name) for name in names},
        # Only where there are some, so that a set without is the one that earlier releases made.
        **({"forged_share": settings.forged_share} if settings.forged_share else {}),
        "on_error": "skip" if settings.skip_errors else "stop",
        "keep_sources": dict(settings.keep_sources or {}),
        "inputs": describe_inputs(files),
        "mix_inputs": describe_inputs(builder.mix_input),
        "harmful_inputs": describe_inputs(builder.harmful),
        "guard": builder.guard.settings if builder.guard else None,
        "reflection": builder.form.describe(),
    }
