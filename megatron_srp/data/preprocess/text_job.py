"""The data job on texts, from its parsed flags."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.errors import UsageError

if TYPE_CHECKING:
    from megatron_srp.terminal.progress import Display


def run_job(
    args: argparse.Namespace, files: InputFiles, display: "Display", keep_finished: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Make the shards of this run's files.

    Args:
        keep_finished: an existing output with the same settings counts as this run's.

    Returns:
        The manifest, and the first skipped rows.
    """
    from megatron_srp.data.build_settings import BuildSettings
    from megatron_srp.data.builder import Finished, open_output
    from megatron_srp.data.preprocess.allocator import keep_freed_memory
    from megatron_srp.data.preprocess.text_pipeline import Preprocessor, describe_inputs
    from megatron_srp.tokenization import load_tokenizer
    from megatron_srp.tokenization.end_of_document import eos_note

    keep_freed_memory()
    own, partition = files.own, files.partition
    rows = [(part.start, part.stop) for part in files.own_parts]
    inputs = describe_inputs(own, rows)
    prefix = Path(partition.prefix(args.output_prefix) if partition else args.output_prefix)
    tokenizer = load_tokenizer(args.tokenizer_type, args.tokenizer_model, args.eod_token)
    builder = open_output(
        BuildSettings(
            prefix=prefix,
            tokenizer=tokenizer,
            guard=_labeler(args, inputs, rows),
            policy=args.policy,
            max_words=args.max_words,
            append_eod=args.append_eod,
            keys=args.json_keys,
            more={"inputs": inputs, "on_error": args.on_error, **judge_of(args)}
            | (partition.settings(len(files.pieces)) if partition else {}),
        ),
        overwrite=args.overwrite,
        threads=args.workers,
        keep_finished=keep_finished or partition is not None,  # a resubmitted array job succeeds
    )
    if isinstance(builder, Finished):
        if builder.kept:
            display.note(f"{prefix} is finished already, with the same settings")
        return builder.manifest, []
    uses_eod = args.append_eod or args.guard != "none"
    first = partition is None or partition.index == 0
    if args.eod_token is None and uses_eod and first and (note := eos_note(tokenizer)):
        display.note(f"note: {note}")
    if at := builder.position:
        display.note(f"resuming at file {at['file'] + 1} of {len(own)}, row {at['row'] + 1}")
    if builder.fallback_reason:
        display.warn(f"{builder.fallback_reason}: using the reference tokenizer, exact but far slower")
    job = Preprocessor(
        own,
        builder,
        parts=files.own_parts,
        workers=args.workers,
        chunk_documents=args.chunk_documents,
        skip_errors=args.on_error == "skip",
        report=display.update,
        warn=display.warn,
    )
    return job.run(), job.errors


def _labeler(args: argparse.Namespace, inputs: list[dict[str, Any]], rows: Sequence[tuple[int, int | None]]) -> Any:
    if args.annotations:
        from megatron_srp.annotation.store.store import AnnotationStore
        from megatron_srp.data.preprocess.labels_by_row import StoreLabeler

        if len(args.json_keys) > 1:
            raise UsageError("--store: a store holds the verdicts of one key; pass one key with --json-keys")
        names, fingerprints = [i["file"] for i in inputs], [i["fingerprint"] for i in inputs]
        store = AnnotationStore(args.annotations)
        key = args.json_keys[0]
        starts = [start for start, _ in rows]
        return StoreLabeler(store, key, names, fingerprints, args.max_words, args.failed_as, args.hints, starts)
    if args.guard == "none":
        return None
    from megatron_srp.annotation import GuardOptions, load_guard

    return load_guard(
        args.guard, GuardOptions(engine_options=args.guard_option, context_words=args.context_words), also=["none"]
    )


def judge_of(args: argparse.Namespace) -> dict[str, Any]:
    """The source of the labels, for the manifest."""
    if args.annotations:
        from megatron_srp.annotation.store.store import AnnotationStore
        from megatron_srp.data.preprocess.stored_verdicts import open_hints

        store = AnnotationStore(args.annotations)
        hints = {"hints": open_hints(store).settings} if args.hints else {}
        return {"annotations": store.describe(), "failed_as": args.failed_as, **hints}
    return {"guard": args.guard}
