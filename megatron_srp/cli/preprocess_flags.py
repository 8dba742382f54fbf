"""The flags of `srp preprocess`, and which of them go together."""

import argparse
import os
from typing import Any

from megatron_srp.cli import corpus_flags, work_folder
from megatron_srp.cli.guard_flags import CONTEXT_HELP, GUARD_HELP
from megatron_srp.cli.parser import Parser, on_disk_or_s3, require_at_least
from megatron_srp.cli.reflection_flags import add_policy_flags, add_reflection_flags
from megatron_srp.corpus.partitions import add_partition_flags, check_partition_flags
from megatron_srp.data.policies.policy import Policy, policy_of, refuse_in_shards
from megatron_srp.data.shards.prefix import output_prefix
from megatron_srp.errors import UsageError
from megatron_srp.schema import Verdict
from megatron_srp.segmentation import check_max_words

DESCRIPTION = """
Prepare Megatron shards from JSONL or Parquet files, compressed or not, with a safety reflection after every segment;
or sidecars for existing shards (--input-shards). Flags that Megatron's preprocess_data.py has keep their names.

Writes PREFIX_KEY_document.bin and .idx for each JSON key, .srp next to them (where the reflections are), and
PREFIX.srp.json (settings, counts, checksums, versions) last of all. A stopped run resumes when the same command is
rerun.
"""


def build_parser() -> argparse.ArgumentParser:
    old_names = corpus_flags.OLD_NAMES | {"--annotations": "--store"}
    parser = Parser(prog="srp preprocess", description=DESCRIPTION, old_names=old_names)
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
        help=f"{corpus_flags.INPUT_HELP}; all go into one shard (no default; or --input-shards)",
    )
    add(
        "--input-shards",
        type=on_disk_or_s3,
        nargs="+",
        metavar="PREFIX",
        help="instead of --input: existing shards without reflections (PREFIX.bin and .idx), or quoted patterns of "
        "their prefixes, here or on s3:// (no default). Their tokens stay as they are; a sidecar is made for each, "
        "OUTPUT_SHARD.srp (SHARD.srp where that name begins with OUTPUT_), which training reads with --srp-sidecar",
    )
    add("--materialize", action="store_true", help="with --input-shards: write new shards, not sidecars")
    add(
        "--json-keys",
        nargs="+",
        default=["text"],
        metavar="KEY",
        help="keys or columns to read; one shard for each",
    )
    add(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help=corpus_flags.ON_ERROR_HELP,
    )


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("tokenizer").add_argument
    add(
        "--tokenizer-type",
        choices=corpus_flags.TOKENIZER_TYPES,
        help="as for Megatron (default, for --input-shards only: the shards' own)",
    )
    add(
        "--tokenizer-model",
        metavar="PATH",
        help="folder with tokenizer.json, hub name, or .model file (default, for --input-shards only: the shards' own)",
    )
    add("--append-eod", action="store_true", help="end every document with the end-of-document token")
    add("--eod-token", metavar="TOKEN", help=f"{corpus_flags.EOD_HELP}; for --input-shards: the shards' own)")


def _add_reflections(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("verdicts", "One of --guard and --store is required.").add_argument
    add("--guard", metavar="NAME", help=f"{GUARD_HELP}; none: plain shards without reflections (no default)")
    add(
        "--guard-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option for the constructor of your own guard; may be repeated (default: none)",
    )
    add("--context-words", type=int, default=0, metavar="N", help=CONTEXT_HELP)
    add(
        "--store",
        dest="annotations",
        metavar="DIR",
        help="verdicts that `srp annotate` made earlier, here or on s3://, instead of --guard; with --input-shards "
        "they are matched by text (no default)",
    )
    add(
        "--failed-as",
        type=str.capitalize,
        choices=list(map(str, Verdict)),
        help="with --store: the verdict of segments that have none (default: refuse them)",
    )
    reflections = add_reflection_flags(parser)
    add_policy_flags(parser, reflections)
    reflections.add_argument(
        "--hints",
        action="store_true",
        help="with --store: write <think> Safe HINT </think> where `srp hints` left a hint",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    add = group.add_argument
    add(
        "--output-prefix",
        type=output_prefix,
        required=True,
        metavar="PREFIX",
        help="prefix of every output file; s3://BUCKET/FOLDER/NAME uploads them when they are finished",
    )
    work_folder.add_work_dir(group)
    add("--overwrite", action="store_true", help="replace finished or partial output")
    add("--workers", type=int, metavar="N", help="threads (default: all cores; 2 for each task of a Ray cluster)")
    add(
        "--chunk-documents",
        type=int,
        default=100_000,
        metavar="N",
        help="documents between two commits to disk",
    )


def validate(args: argparse.Namespace) -> None:
    """Raise UsageError for flags that do not go together; fill in the number of workers."""
    _validate_input(args)
    if (args.guard is None) == (args.annotations is None):
        raise UsageError("pass either --guard NAME (heuristic, or none for plain shards) or --store DIR")
    args.guard_option = _guard_options(args)
    if args.failed_as is not None:
        if args.annotations is None:
            raise UsageError("--failed-as needs --store; a guard that fails here stops the job")
        args.failed_as = Verdict.from_name(args.failed_as)
    if args.hints and args.annotations is None:
        raise UsageError("--hints needs --store DIR, a store with hints; `srp hints` writes them")
    check_max_words(args.max_words)
    check_partition_flags(args)
    work_folder.check_outputs(args)
    args.policy = policy_of(args)
    if args.guard == "none" and args.policy != Policy(form=args.policy.form):
        raise UsageError("--policy and --start-share need verdicts: pass --guard NAME or --store DIR")
    if not args.input_shards or args.materialize:
        refuse_in_shards(args.policy)
    if args.workers is None:
        args.workers = 2 if args.executor == "ray" else os.cpu_count() or 1
    require_at_least(1, args, "--workers", "--chunk-documents")
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
        raise UsageError("--guard-option is an option of a guard: pass --guard NAME too, or leave it out")
    if args.context_words and args.guard in (None, "none"):
        raise UsageError("--context-words is an option of a guard: pass --guard NAME too, or leave it out")
    from megatron_srp.cli.guard_flags import engine_options  # which imports numpy

    return engine_options(args.guard_option)


def _validate_input(args: argparse.Namespace) -> None:
    if (args.input is None) == (args.input_shards is None):
        raise UsageError("pass either --input FILE or --input-shards PREFIX")
    if args.input:
        if args.materialize:
            raise UsageError("--materialize is for --input-shards; with --input new shards are written anyway")
        if not (args.tokenizer_type and args.tokenizer_model):
            raise UsageError("pass --tokenizer-type and --tokenizer-model")
        return
    if args.num_partitions or args.executor == "ray":
        raise UsageError("--input-shards makes a sidecar for each shard: pass different shards to each machine instead")
    if args.append_eod:
        raise UsageError("--append-eod cannot be used with --input-shards, whose tokens are kept as they are")
    if args.guard == "none":
        raise UsageError("--guard none leaves nothing to do with --input-shards; pass a guard, or --store")
