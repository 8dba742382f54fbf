"""The flags of tools/preprocess_with_reflections.py, and which of them go together."""

import argparse
import os
from typing import Any

from megatron_srp.corpus.partitions import add_partition_flags, check_partition_flags
from megatron_srp.data.shards.prefix import output_prefix
from megatron_srp.errors import CommandParser, UsageError
from megatron_srp.reflection import reflection_format
from megatron_srp.schema import Verdict
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words

DESCRIPTION = """
Prepare Megatron shards from JSONL or Parquet files (plain, gzip, zstd, bzip2 or xz), with a safety reflection
after every segment; or sidecars for shards that exist already (--input-shards). Flags that Megatron's
preprocess_data.py has keep their names.

Writes PREFIX_KEY_document.bin and .idx for each JSON key, .srp beside them (where the reflections are),
and PREFIX.srp.json (settings, counts, versions) last of all. Stopped runs go on where they were when
the same command is given again.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="preprocess_with_reflections.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_input(parser)
    _add_tokenizer(parser)
    _add_reflections(parser)
    _add_output(parser)
    add_partition_flags(parser)
    return parser


def _add_input(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input").add_argument
    add(
        "--input",
        nargs="+",
        metavar="FILE",
        help="files or quoted patterns; all go into one shard",
    )
    add(
        "--input-shards",
        nargs="+",
        metavar="PREFIX",
        help="instead of --input: shards of any origin without reflections (PREFIX.bin and .idx), or quoted patterns "
        "of their prefixes. Their tokens stay as they are; a sidecar is made for each, OUTPUT_SHARD.srp (SHARD.srp "
        "where that name begins with OUTPUT_), which training takes with --srp-sidecar",
    )
    add("--materialize", action="store_true", help="with --input-shards: write new shards, not sidecars")
    add(
        "--json-keys",
        nargs="+",
        default=["text"],
        metavar="KEY",
        help="keys or columns to take; a shard each (default: text)",
    )
    add(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="at a row that is no document: stop, or leave it out and count it",
    )


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("tokenizer").add_argument
    add(
        "--tokenizer-type",
        metavar="TYPE",
        help="HuggingFaceTokenizer or SentencePieceTokenizer",
    )
    add(
        "--tokenizer-model",
        metavar="PATH",
        help="folder with tokenizer.json, hub name, or .model file",
    )
    add("--append-eod", action="store_true", help="end every document with the end-of-document token")


def _add_reflections(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("reflections").add_argument
    add(
        "--guard",
        metavar="NAME",
        help="who judges the segments. heuristic: a small list of words and phrases, for demos and "
        "tests only, far too crude to train a real model with; none: plain shards without reflections",
    )
    add(
        "--guard-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the guard, for the constructor of your own class; may be given again",
    )
    add(
        "--annotations",
        metavar="DIR",
        help="verdicts made earlier by annotate.py, instead of --guard; for shards: on the texts they are of",
    )
    add(
        "--failed-as",
        metavar="VERDICT",
        help="with --annotations: the verdict of segments that the guard gave none (default: refuse them)",
    )
    add(
        "--hints",
        action="store_true",
        help="with --annotations: write <think> Safe HINT </think> where write_hints.py left a hint beside the verdict",
    )
    add(
        "--max-words",
        type=int,
        default=DEFAULT_MAX_WORDS,
        metavar="N",
        help="words in a segment at most (default: %(default)s, the paper's)",
    )
    add(
        "--reflection-tokens",
        choices=["text", "special"],
        default="text",
        help="text: <think> as plain text, the paper's form; special: as tokens of its own, with the "
        "extended tokenizer in PREFIX_tokenizer",
    )
    add(
        "--stop-after",
        default="Unsafe,Controversial",
        metavar="LIST",
        help="verdicts followed by end-of-text (default: %(default)s; none for none)",
    )
    add(
        "--controversial",
        choices=["keep", "safe", "unsafe"],
        default="keep",
        help="write Controversial as it is, or as one of the others",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--output-prefix", type=output_prefix, required=True, metavar="PREFIX", help="of all files written")
    add("--overwrite", action="store_true", help="replace finished or half-done output")
    add("--workers", type=int, metavar="N", help="threads (default: all cores; 2 for each task of a Ray cluster)")
    add(
        "--chunk-documents",
        type=int,
        default=100_000,
        metavar="N",
        help="commit to disk after so many documents (default: %(default)s)",
    )


def validate(args: argparse.Namespace) -> None:
    """Raise UsageError for flags that do not go together; fill in the number of workers."""
    _validate_input(args)
    if (args.guard is None) == (args.annotations is None):
        raise UsageError("give one of --guard NAME (heuristic, or none for plain shards) and --annotations DIR")
    args.guard_option = _guard_options(args)
    if args.failed_as is not None:
        if args.annotations is None:
            raise UsageError("--failed-as goes with --annotations; a guard that fails here stops the job")
        args.failed_as = Verdict.from_name(args.failed_as)
    if args.hints and args.annotations is None:
        raise UsageError("--hints goes with --annotations, a store that has hints; write them with write_hints.py")
    check_max_words(args.max_words)
    check_partition_flags(args)
    reflection_format(args)
    if args.workers is None:
        args.workers = 2 if args.executor == "ray" else os.cpu_count() or 1
    for flag in ("workers", "chunk_documents"):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {getattr(args, flag)}: give a number of at least 1")
    repeated = {key for key in args.json_keys if args.json_keys.count(key) > 1}
    if repeated:
        raise UsageError(f"--json-keys names {min(repeated)!r} twice")
    for key in args.json_keys:
        if "/" in key or not key:
            raise UsageError(
                f"--json-keys {key!r}: becomes part of a file name, so it can be neither empty nor contain /"
            )


def _guard_options(args: argparse.Namespace) -> dict[str, Any]:
    if args.guard_option and args.guard in (None, "none"):
        raise UsageError("--guard-option is an option of a guard: give --guard NAME too, or leave it out")
    from megatron_srp.cli.guard_flags import engine_options  # which imports numpy

    return engine_options(args.guard_option)


def _validate_input(args: argparse.Namespace) -> None:
    if (args.input is None) == (args.input_shards is None):
        raise UsageError("give one of --input FILE and --input-shards PREFIX")
    if args.input:
        if args.materialize:
            raise UsageError("--materialize is for --input-shards; with --input new shards are written anyway")
        if not (args.tokenizer_type and args.tokenizer_model):
            raise UsageError("give --tokenizer-type and --tokenizer-model")
        return
    if args.num_partitions or args.executor == "ray":
        raise UsageError("--input-shards makes a sidecar for each shard: give each machine shards of its own instead")
    if args.append_eod:
        raise UsageError("--append-eod cannot be used with --input-shards, whose tokens are kept as they are")
    if args.guard == "none":
        raise UsageError("--guard none leaves nothing to do with --input-shards; name a guard, or give --annotations")
