"""The data job on texts, from its parsed flags."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.corpus.partitions import Partition
from megatron_srp.errors import UsageError
from megatron_srp.reflection import reflection_format

if TYPE_CHECKING:
    from megatron_srp.terminal.progress import Display


def run_job(
    args: argparse.Namespace, files: list[Path], display: "Display", partition: Partition | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Make the shards of all files, or of `partition`. Returns the manifest, and the first rows left out."""
    from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
    from megatron_srp.data.preprocess.allocator import keep_freed_memory
    from megatron_srp.data.preprocess.text_pipeline import Preprocessor, describe_inputs
    from megatron_srp.tokenization import load_tokenizer

    keep_freed_memory()
    files = list(partition.files) if partition else files
    inputs = describe_inputs(files)
    builder = ReflectionIndexedDatasetBuilder(
        Path(partition.prefix(args.output_prefix) if partition else args.output_prefix),
        load_tokenizer(args.tokenizer_type, args.tokenizer_model),
        guard=_labeler(args, inputs),
        form=reflection_format(args),
        max_words=args.max_words,
        append_eod=args.append_eod,
        keys=args.json_keys,
        settings={"inputs": inputs, "on_error": args.on_error, **judge_of(args)}
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


def _labeler(args: argparse.Namespace, inputs: list[dict[str, str]]) -> Any:
    if args.annotations:
        from megatron_srp.annotation.store.store import AnnotationStore
        from megatron_srp.data.preprocess.labels_by_row import StoreLabeler

        if len(args.json_keys) > 1:
            raise UsageError("--store: a store holds the verdicts of one key; give one key with --json-keys")
        names, fingerprints = [i["file"] for i in inputs], [i["fingerprint"] for i in inputs]
        store = AnnotationStore(args.annotations)
        key = args.json_keys[0]
        return StoreLabeler(store, key, names, fingerprints, args.max_words, args.failed_as, args.hints)
    if args.guard == "none":
        return None
    from megatron_srp.annotation import load_guard

    return load_guard(args.guard, also=["none"])


def judge_of(args: argparse.Namespace) -> dict[str, Any]:
    """Who judged, for the manifest."""
    if args.annotations:
        from megatron_srp.annotation.store.store import AnnotationStore
        from megatron_srp.data.preprocess.labels_by_row import open_hints

        store = AnnotationStore(args.annotations)
        hints = {"hints": open_hints(store).settings} if args.hints else {}
        return {"annotations": store.settings, "failed_as": args.failed_as, **hints}
    return {"guard": args.guard}
