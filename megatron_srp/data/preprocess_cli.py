"""The command line of tools/preprocess_with_reflections.py. Heavy imports wait until flags are parsed."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.data.partitions import Partition, add_partition_flags, check_partition_flags, partitions
from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat, parse_stop_after
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words

if TYPE_CHECKING:
    from megatron_srp.data.progress import Display

DESCRIPTION = """
Prepare Megatron shards from JSONL or Parquet files (plain, gzip or zstd), with a safety reflection
after every segment. Flags that Megatron's preprocess_data.py has keep their names.

Writes PREFIX_KEY_document.bin and .idx for each JSON key, .srp beside them (where the reflections are),
and PREFIX.srp.json (settings, counts, versions) last of all. Stopped runs go on where they were when
the same command is given again.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see --help")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="preprocess_with_reflections.py",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("input").add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="FILE",
        help="files or quoted patterns; all go into one shard",
    )
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
    add = parser.add_argument_group("tokenizer").add_argument
    add(
        "--tokenizer-type",
        required=True,
        metavar="TYPE",
        help="HuggingFaceTokenizer or SentencePieceTokenizer",
    )
    add(
        "--tokenizer-model",
        required=True,
        metavar="PATH",
        help="folder with tokenizer.json, hub name, or .model file",
    )
    add("--append-eod", action="store_true", help="end every document with the end-of-document token")
    add = parser.add_argument_group("reflections").add_argument
    add(
        "--guard",
        metavar="NAME",
        help="who judges the segments. heuristic: a small list of words and phrases, for demos and "
        "tests only, far too crude to train a real model with; none: plain shards without reflections",
    )
    add("--annotations", metavar="DIR", help="verdicts made earlier by annotate.py, instead of --guard")
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
    add = parser.add_argument_group("output").add_argument
    add("--output-prefix", required=True, metavar="PREFIX", help="of all files written")
    add("--overwrite", action="store_true", help="replace finished or half-done output")
    add("--workers", type=int, metavar="N", help="threads (default: all cores; 2 for each task of a Ray cluster)")
    add(
        "--chunk-documents",
        type=int,
        default=100_000,
        metavar="N",
        help="commit to disk after so many documents (default: %(default)s)",
    )
    add_partition_flags(parser)
    return parser


def _validate(args: argparse.Namespace) -> None:
    if (args.guard is None) == (args.annotations is None):
        raise UsageError("give one of --guard NAME (heuristic, or none for plain shards) and --annotations DIR")
    check_max_words(args.max_words)
    check_partition_flags(args)
    _form(args)
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


def main(argv: list[str]) -> int:
    """Parse `argv`, run the job, print a summary. Returns the exit code."""
    args = build_parser().parse_args(argv)
    _validate(args)

    from megatron_srp.corpus.readers import expand_inputs
    from megatron_srp.data.preprocess import require_documents
    from megatron_srp.data.progress import ProgressDisplay, print_summary

    files = expand_inputs(args.input)
    if args.executor == "ray":
        from megatron_srp.data.ray_executor import run_on_ray

        return run_on_ray(args, files)
    partition = partitions(files, args.num_partitions)[args.partition_index] if args.num_partitions else None
    if partition and not partition.files:
        print(f"{len(files)} input files in {partition.count} partitions: none is left for partition {partition.index}")
        return 0
    with ProgressDisplay() as display:
        manifest, errors = run_job(args, files, display, partition)
    print_summary(partition.prefix(args.output_prefix) if partition else args.output_prefix, manifest, errors)
    if not partition:  # a partition may well be without; the merged shard is asked instead
        require_documents(manifest)
    return 0


def run_job(
    args: argparse.Namespace, files: list[Path], display: "Display", partition: Partition | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Make the shards of all files, or of `partition`. Returns the manifest, and the first rows left out."""
    from megatron_srp.data.allocator import keep_freed_memory
    from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
    from megatron_srp.data.preprocess import Preprocessor, describe_inputs
    from megatron_srp.tokenization import load_tokenizer

    keep_freed_memory()
    files = list(partition.files) if partition else files
    inputs = describe_inputs(files)
    builder = ReflectionIndexedDatasetBuilder(
        Path(partition.prefix(args.output_prefix) if partition else args.output_prefix),
        load_tokenizer(args.tokenizer_type, args.tokenizer_model),
        guard=_labeler(args, inputs),
        form=_form(args),
        max_words=args.max_words,
        append_eod=args.append_eod,
        keys=args.json_keys,
        settings={"inputs": inputs, "on_error": args.on_error, **_judge(args)}
        | (partition.settings() if partition else {}),
        overwrite=args.overwrite,
        threads=args.workers,
        keep_finished=partition is not None,  # an array job that is given again goes through
    )
    if builder.kept:
        display.note(f"{builder.prefix} is finished already, with the same settings")
    if not builder.finished and (at := builder.position):
        display.note(f"resuming at file {at['file'] + 1} of {len(files)}, row {at['row'] + 1}")
    if not builder.finished and builder.reflector.encoder.reason:
        display.warn(f"{builder.reflector.encoder.reason}: using the reference tokenizer, exact but far slower")
    job = Preprocessor(
        files,
        builder,
        args.workers,
        args.chunk_documents,
        args.on_error == "skip",
        display.update,
        display.warn,
    )
    return job.run(), job.errors


def _form(args: argparse.Namespace) -> ReflectionFormat:
    return ReflectionFormat(
        stop_after=parse_stop_after(args.stop_after),
        controversial=args.controversial,
        special_tokens=args.reflection_tokens == "special",
    )


def _labeler(args: argparse.Namespace, inputs: list[dict[str, str]]) -> Any:
    if args.annotations:
        from megatron_srp.annotation.store import AnnotationStore
        from megatron_srp.data.store_labeler import StoreLabeler

        if len(args.json_keys) > 1:
            raise UsageError("--annotations: a store holds verdicts for one key; give one --json-keys at a time")
        names, fingerprints = [i["file"] for i in inputs], [i["fingerprint"] for i in inputs]
        return StoreLabeler(AnnotationStore(args.annotations), args.json_keys[0], names, fingerprints, args.max_words)
    if args.guard == "none":
        return None
    from megatron_srp.annotation import load_guard

    return load_guard(args.guard)


def _judge(args: argparse.Namespace) -> dict[str, Any]:
    """Who judged, for the manifest."""
    if args.annotations:
        from megatron_srp.annotation.store import AnnotationStore

        return {"annotations": AnnotationStore(args.annotations).settings}
    return {"guard": args.guard}
