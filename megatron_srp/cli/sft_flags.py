"""The flags of tools/augment_sft.py, and which of them go together."""

import argparse
from pathlib import Path

from megatron_srp.cli.guard_flags import add_guard_arguments
from megatron_srp.errors import CommandParser, UsageError
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words

DESCRIPTION = """
Put safety reflections into chat data, for post-training and fine-tuning: one of the user's prompt before each
response, one behind each segment of it, so that every response ends in one. Prompts stay as they are.

Input: JSONL or Parquet (plain, gzip, zstd, bzip2 or xz) as messages, ShareGPT, Alpaca or prompt and response. A
response that contains <think> or </think> as text is dropped and counted: it could pass for a verdict. In a
prompt it is kept: it is text there and not learned.

Output: --output FILE.jsonl, to look at, mix or convert later; or --output-prefix PREFIX, a Megatron shard with
a loss mask beside it, which show_sample.py prints.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="augment_sft.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_input(parser)
    _add_what_is_made(parser)
    _add_filters(parser)
    _add_reflections(parser)
    _add_output(parser)
    parser.set_defaults(hints=False)  # the data job's alone: answers have no hints
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input").add_argument
    add("--input", nargs="+", required=True, metavar="FILE", help="files or quoted patterns")
    add("--format", metavar="NAME", help="srp, messages, sharegpt, alpaca or pairs (default: told from the first row)")
    add("--on-error", choices=["stop", "skip"], default="stop", help="at a row that is no conversation")


def _add_what_is_made(parser: argparse.ArgumentParser) -> None:
    from megatron_srp.sft.build import MIX, MODES
    from megatron_srp.sft.safety_examples import NUM_RECOVERIES, NUM_REFUSALS

    add = parser.add_argument_group("what is made").add_argument
    add(
        "--mode",
        choices=MODES,
        default="sft",
        dest="set_mode",
        help="sft: a post-training set. For fine-tuning: original (no reflections), reflection (in every example), "
        "mix-sft (none, but --mix examples of a post-training set)",
    )
    add("--mix", type=int, default=MIX, metavar="N", help="with --mode mix-sft (default: %(default)s, the paper's)")
    add("--mix-input", nargs="+", default=[], metavar="FILE", help="where these are from, such as an earlier --output")
    add("--harmful", nargs="+", default=[], metavar="FILE", help="harmful prompts, with or without harmful responses")
    add(
        "--num-refusals",
        type=int,
        default=NUM_REFUSALS,
        metavar="N",
        help="of --harmful, examples `<think> Unsafe </think>`, end of text, refusal (%(default)s, the paper's)",
    )
    add(
        "--num-recoveries",
        type=int,
        default=NUM_RECOVERIES,
        metavar="N",
        help="of --harmful, examples that give up a harmful beginning, which is not learned (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: %(default)s)")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    from megatron_srp.sft.filters import KEEP_SHARE, KEEP_SOURCES, MAX_CHARS

    add = parser.add_argument_group("filters (defaults: the paper's with --mode sft, else none)").add_argument
    add("--max-chars", type=int, metavar="N", help=f"drop longer conversations ({MAX_CHARS}; 0 for no limit)")
    shares = " ".join(f"{name}={share}" for name, share in KEEP_SOURCES.items())
    add(
        "--keep-source",
        nargs="*",
        metavar="NAME=P",
        help=f"share to keep of sources whose name (`source` or `dataset` of a row, else the file's) has NAME in it "
        f"({shares})",
    )
    add("--keep-share", type=float, metavar="P", help=f"share to keep of all others ({KEEP_SHARE})")


def _add_reflections(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("reflections").add_argument
    add("--max-words", type=int, default=DEFAULT_MAX_WORDS, metavar="N", help="in a segment (default: %(default)s)")
    add("--stop-after", default="Unsafe,Controversial", metavar="LIST", help="followed by end-of-text (%(default)s)")
    add("--controversial", choices=["keep", "safe", "unsafe"], default="keep", help="how Controversial is written")
    add(
        "--reflection-tokens",
        choices=["text", "special"],
        default="text",
        help="as in pretraining; special wants the tokenizer of the pretraining shards",
    )
    add_guard_arguments(parser, required=False, one_mode=False)


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, metavar="FILE", help="JSON lines, and FILE.manifest.json")
    add("--output-prefix", type=Path, metavar="PREFIX", help="PREFIX_sft.bin, .idx and .mask, and PREFIX.srp.json")
    add("--tokenizer-type", default="HuggingFaceTokenizer", metavar="TYPE", help="default: %(default)s")
    add("--tokenizer-model", metavar="PATH", help="folder with tokenizer.json, hub name, or .model file")
    add(
        "--chat-template",
        choices=["tokenizer", "plain"],
        help="how turns are written: as the tokenizer's chat template says, or `User: ...` and `Assistant:` lines "
        "(default: the tokenizer's where it has one)",
    )
    add("--seq-length", type=int, default=2048, metavar="N", help="drop longer conversations (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace what is there")


def validate(args: argparse.Namespace) -> None:
    """Fill in the defaults that depend on the mode; raise UsageError for what does not go together."""
    from megatron_srp.sft import filters
    from megatron_srp.sft.chat_formats import check_format

    check_format(args.format)
    check_max_words(args.max_words)
    paper = args.set_mode == "sft"
    if args.max_chars is None:
        args.max_chars = filters.MAX_CHARS if paper else 0
    if args.keep_share is None:
        args.keep_share = filters.KEEP_SHARE if paper else 1.0
    filters.check_share("--keep-share", args.keep_share)
    if args.keep_source is None:
        args.keep_sources = filters.KEEP_SOURCES if paper else {}
    else:
        args.keep_sources = filters.parse_keep_sources(args.keep_source)
    for flag in ("max_chars", "mix", "num_refusals", "num_recoveries"):
        if getattr(args, flag) < 0:
            raise UsageError(f"--{flag.replace('_', '-')} {getattr(args, flag)}: give a number of at least 0")
    if args.seq_length < 2:
        raise UsageError(f"--seq-length {args.seq_length}: give a number of at least 2")
    _validate_together(args)


def _validate_together(args: argparse.Namespace) -> None:
    if (args.output is None) == (args.output_prefix is None):
        raise UsageError("give one of --output FILE.jsonl and --output-prefix PREFIX")
    if args.output_prefix and not args.tokenizer_model:
        raise UsageError("--output-prefix writes tokens: give --tokenizer-model too")
    if (args.set_mode == "mix-sft") != bool(args.mix_input):
        raise UsageError("--mode mix-sft and --mix-input FILE go together")
    if args.guard is None and args.set_mode in ("sft", "reflection") and args.format != "srp":
        raise UsageError("give --guard NAME, who judges; or --format srp for files that have reflections already")
    if args.harmful and args.set_mode != "sft":
        raise UsageError("--harmful is for --mode sft: a fine-tuning set is what its user brings")
    if args.harmful and args.num_recoveries and args.guard is None:
        raise UsageError("--harmful with recoveries needs --guard NAME; or pass --num-recoveries 0")
