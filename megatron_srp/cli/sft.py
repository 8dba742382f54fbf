"""The command line of tools/augment_sft.py. Heavy imports wait until flags are parsed."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.cli.guard_flags import guard_from_args
from megatron_srp.cli.sft_flags import build_parser, validate

if TYPE_CHECKING:
    from megatron_srp.sft.build import SetBuilder
    from megatron_srp.sft.conversation import Conversation


def main(argv: list[str]) -> int:
    """Parse `argv`, build the set, write it, print the counts. Returns the exit code."""
    args = build_parser().parse_args(argv)
    validate(args)

    from megatron_srp.corpus.readers import expand_inputs
    from megatron_srp.sft.json_output import check_json_output, write_json_lines

    files = expand_inputs(args.input)
    builder = _builder(args)
    settings = describe(args, builder, files)
    if args.output:
        check_json_output(args.output, args.overwrite)
        conversations = _build(builder, files)
        write_json_lines(args.output, conversations, {"counts": dict(builder.counts), "settings": settings})
        wrote = str(args.output)
    else:
        wrote = _write_shard(args, builder, files, settings)
    for name, count in sorted(builder.counts.items()):
        print(f"{name:<58} {count:,}")
    for line in [*builder.reader.errors, *builder.notes]:
        print(f"note: {line}")
    print(f"wrote {wrote}")
    return 0


def _build(builder: "SetBuilder", files: list[Path]) -> list["Conversation"]:
    try:
        return builder.build(files)
    finally:
        if builder.guard is not None:
            builder.guard.close()


def _write_shard(args: argparse.Namespace, builder: "SetBuilder", files: list[Path], settings: dict[str, Any]) -> str:
    from megatron_srp.sft.shard_writer import SftShardWriter
    from megatron_srp.sft.template import load_template
    from megatron_srp.tokenization import load_tokenizer

    template = load_template(load_tokenizer(args.tokenizer_type, args.tokenizer_model), args.chat_template)
    writer = SftShardWriter(args.output_prefix, template, builder.form, args.seq_length, settings, args.overwrite)
    try:
        if writer.finished is None:
            writer.write(_build(builder, files))
            builder.counts.update(writer.counts)
            writer.finish(dict(builder.counts))
    finally:
        writer.close()
    return f"{writer.prefix}.bin, .idx and .mask"


def _builder(args: argparse.Namespace) -> "SetBuilder":
    from megatron_srp.corpus.readers import expand_inputs
    from megatron_srp.reflection import reflection_format
    from megatron_srp.sft.build import SetBuilder
    from megatron_srp.sft.filters import Filters
    from megatron_srp.sft.reader import ChatReader

    form = reflection_format(args)
    return SetBuilder(
        ChatReader(form, args.format, args.on_error == "skip"),
        Filters(form, args.max_chars or None, args.keep_sources, args.keep_share, args.seed),
        guard_from_args(args) if args.guard else None,
        form,
        args.max_words,
        args.set_mode,
        args.mix,
        expand_inputs(args.mix_input),
        expand_inputs(args.harmful),
        args.num_refusals,
        args.num_recoveries,
        args.seed,
    )


def describe(args: argparse.Namespace, builder: "SetBuilder", files: list[Path]) -> dict[str, Any]:
    """Everything that decides the set, for its manifest."""
    from megatron_srp.data.preprocess.text_pipeline import describe_inputs

    names = ("format", "on_error", "mix", "num_refusals", "num_recoveries", "seed", "max_words", "max_chars")
    return {
        "mode": args.set_mode,
        **{name: getattr(args, name) for name in (*names, "keep_sources", "keep_share")},
        "inputs": describe_inputs(files),
        "mix_inputs": describe_inputs(builder.mix_input),
        "harmful_inputs": describe_inputs(builder.harmful),
        "guard": builder.guard.settings if builder.guard else None,
        "reflection": builder.form.describe(),
    }
