"""The flags of `srp sft`; the settings check which of them go together."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from megatron_srp.cli import corpus_flags, guard_flags
from megatron_srp.cli.parser import Parser
from megatron_srp.cli.reflection_flags import add_reflection_flags
from megatron_srp.reflection import reflection_format
from megatron_srp.sft.settings import KEEP_SHARE, KEEP_SOURCES, MAX_CHARS, MODES, SftSettings, parse_keep_sources

FORMATS = ("srp", "messages", "sharegpt", "alpaca", "dolly", "pairs")
DESCRIPTION = """
Put safety reflections into chat data, for post-training and fine-tuning: a reflection on the user's prompt before each
response, and one after each segment of it, so that every response ends in one. Prompts are unchanged.

Input: JSONL or Parquet, compressed or not, as messages, ShareGPT, Alpaca, Dolly or prompt and response. Turns of tools,
and those that call tools, are context without loss. A response that contains <think> or </think> as text is dropped
and counted: it could pass for a verdict. In a prompt it is kept: there it is only text, and carries no loss.

Output: --out FILE.jsonl, to look at, mix or convert later; or --output-prefix PREFIX, a Megatron shard with a loss
mask, which `srp show` prints.
"""
# Settings with the same names as their flags.
_SAME = (
    *("mode", "mix", "harmful", "num_refusals", "num_recoveries", "forged_share", "seed"),
    *("max_chars", "keep_share", "max_words"),
    *("guard", "out", "output_prefix", "tokenizer_type", "tokenizer_model", "eod_token", "chat_template", "seq_length"),
)
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(SftSettings)}


def build_parser() -> argparse.ArgumentParser:
    old_names = guard_flags.OLD_NAMES | {"--output": "--out"}
    parser = Parser(prog="srp sft", description=DESCRIPTION, old_names=old_names)
    _add_input(parser)
    _add_what_is_made(parser)
    _add_filters(parser)
    add_reflection_flags(parser)
    guard_flags.add_guard_flags(parser, required=False, one_mode=False)
    _add_output(parser)
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input").add_argument
    add("--input", nargs="+", required=True, metavar="FILE", help=corpus_flags.INPUT_HELP)
    add("--format", choices=FORMATS, help="format of the rows (default: detected from each file's first row)")
    add("--on-error", choices=["stop", "skip"], default="stop", help=corpus_flags.ON_ERROR_HELP)


def _add_what_is_made(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is made").add_argument
    add(
        "--mode",
        choices=MODES,
        default=DEFAULTS["mode"],
        help="sft: a post-training set. For fine-tuning: original (no reflections), reflection (in every example), "
        "mix-sft (none, but --mix examples of a post-training set)",
    )
    add("--mix", type=int, default=DEFAULTS["mix"], metavar="N", help="with --mode mix-sft: examples mixed in")
    add(
        "--mix-input",
        nargs="+",
        default=[],
        metavar="FILE",
        help="where these come from, such as an earlier --out (default: none)",
    )
    add(
        "--harmful",
        nargs="+",
        default=[],
        metavar="FILE",
        help="harmful prompts, with or without harmful responses, for the next three (default: none)",
    )
    add(
        "--num-refusals",
        type=int,
        default=DEFAULTS["num_refusals"],
        metavar="N",
        help="of --harmful, examples `<think> Unsafe </think>`, end of text, refusal",
    )
    add(
        "--num-recoveries",
        type=int,
        default=DEFAULTS["num_recoveries"],
        metavar="N",
        help="of --harmful, examples that abandon a harmful beginning, which carries no loss",
    )
    add(
        "--forged-share",
        type=float,
        default=DEFAULTS["forged_share"],
        metavar="SHARE",
        help="of these recoveries, how many have a forged `<think> Safe </think>` in their beginning",
    )
    add("--seed", type=int, default=DEFAULTS["seed"], metavar="N", help="random seed of samples and order")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("filters", "Defaults: the paper's with --mode sft, else no filter.").add_argument
    add("--max-chars", type=int, metavar="N", help=f"drop longer conversations (default: {MAX_CHARS}; 0 for no limit)")
    shares = " ".join(f"{name}={share}" for name, share in KEEP_SOURCES.items())
    add(
        "--keep-source",
        nargs="*",
        metavar="NAME=SHARE",
        help="share to keep of sources whose name (`source` or `dataset` of a row, else the file's) contains NAME "
        f"(default: {shares})",
    )
    add("--keep-share", type=float, metavar="SHARE", help=f"share to keep of all others (default: {KEEP_SHARE})")


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, metavar="FILE", help="JSON lines, and FILE.manifest.json (default: a shard is written)")
    add(
        "--output-prefix",
        type=Path,
        metavar="PREFIX",
        help="PREFIX_sft.bin, .idx and .mask, and PREFIX.srp.json (default: JSON lines are written)",
    )
    types = corpus_flags.TOKENIZER_TYPES
    add("--tokenizer-type", choices=types, default=DEFAULTS["tokenizer_type"], help="as for Megatron")
    add(
        "--tokenizer-model",
        metavar="PATH",
        help="folder with tokenizer.json, hub name, or .model file (no default; for --output-prefix)",
    )
    add("--eod-token", metavar="TOKEN", help=f"{corpus_flags.EOD_HELP})")
    add(
        "--chat-template",
        choices=["tokenizer", "plain"],
        help="how turns are written: by the tokenizer's chat template, or `User: ...` and `Assistant:` lines "
        "(default: the tokenizer's where it has one)",
    )
    add("--seq-length", type=int, default=DEFAULTS["seq_length"], metavar="N", help="drop conversations of more tokens")
    add("--overwrite", action="store_true", help="replace existing output")


def settings_from_args(args: argparse.Namespace) -> SftSettings:
    """The set that the flags describe; raises UsageError."""
    return SftSettings(
        inputs=args.input,
        format=args.format,
        skip_errors=args.on_error == "skip",
        mix_inputs=args.mix_input,
        keep_sources=None if args.keep_source is None else parse_keep_sources(args.keep_source),
        form=reflection_format(args),
        guard_options=guard_flags.guard_options(args),
        overwrite=args.overwrite,
        **{name: getattr(args, name) for name in _SAME},
    )
