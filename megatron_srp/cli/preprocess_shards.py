"""`srp preprocess --input-shards`: reflections for existing shards."""

import argparse
from pathlib import Path
from typing import Any

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.cli.parser import next_step
from megatron_srp.data.preprocess.allocator import keep_freed_memory
from megatron_srp.data.preprocess.shard_inputs import expand_shards, shard_tokenizer
from megatron_srp.data.preprocess.shard_pipeline import ShardJob
from megatron_srp.data.preprocess.shard_settings import ShardJobSettings
from megatron_srp.data.preprocess.summary import print_summary
from megatron_srp.data.preprocess.text_pipeline import require_documents
from megatron_srp.data.reflect import GuardLabeler, Labeler
from megatron_srp.data.shards.indexed_shard import bin_path
from megatron_srp.data.shards.manifest import find_manifest
from megatron_srp.data.shards.sidecar import sidecar_path
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.terminal.display import ProgressDisplay
from megatron_srp.tokenization.end_of_document import eos_note


def run(args: argparse.Namespace, form: ReflectionFormat, judge: dict[str, Any]) -> int:
    """Run the job that the parsed flags describe, print a summary. Returns the exit code."""
    keep_freed_memory()
    shards = expand_shards(args.input_shards)
    tokenizer = shard_tokenizer(shards, args.tokenizer_type, args.tokenizer_model, args.eod_token)
    labeler = _labeler(args, shards)
    if isinstance(labeler, GuardLabeler):
        judge = judge | labeler.settings  # a name alone is not the guard: a run must not resume with another
    settings = ShardJobSettings(
        shards, Path(args.output_prefix), tokenizer, form, args.max_words, judge, args.materialize
    )
    job = ShardJob(
        settings, labeler, workers=args.workers, chunk_documents=args.chunk_documents, overwrite=args.overwrite
    )
    known = args.eod_token is not None or any(map(find_manifest, shards))
    with ProgressDisplay() as display:
        if not known and (note := eos_note(tokenizer)):
            display.note(f"note: {note}")
        if not job.output.finished and (at := job.position):
            display.note(f"resuming at shard {at['file'] + 1} of {len(shards)}, sequence {at['row'] + 1}")
        job.report = display.update
        manifest = job.run()
    print_summary(args.output_prefix, manifest, [])
    for shard, made in zip(shards, manifest["sidecars"], strict=False):
        path = sidecar_path(Path(args.output_prefix).with_name(made["name"]))
        size, whole = path.stat().st_size, bin_path(shard).stat().st_size
        print(f"wrote {path}, {size:,} bytes, {size / max(whole, 1):.1%} of its shard")
    require_documents(manifest)
    _print_next(args.output_prefix, shards, manifest)
    return 0


def _print_next(prefix: str, shards: list[Path], manifest: dict[str, Any]) -> None:
    names = [made["name"] for made in manifest["sidecars"] or manifest["shards"]]
    paths = [str(Path(prefix).with_name(name)) for name in names]
    if manifest["sidecars"]:
        data = f"--data-path {shards[0]} --srp-sidecar {sidecar_path(Path(paths[0]))}"
    else:
        data = f"--data-path {paths[0]}"
    next_step(f"srp inspect {paths[0]} shows the verdicts; srp train {data} ...")


def _labeler(args: argparse.Namespace, shards: list[Path]) -> Labeler:
    if not args.annotations:
        return GuardLabeler(load_guard(args.guard, GuardOptions(engine_options=args.guard_option)))
    from megatron_srp.annotation.store.store import AnnotationStore
    from megatron_srp.data.preprocess.labels_by_text import HashLabeler

    names = [str(shard) for shard in shards]
    store = AnnotationStore(args.annotations)
    return HashLabeler(store, args.json_keys[0], names, args.max_words, args.failed_as, args.hints)
