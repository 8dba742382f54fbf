"""The data job on existing shards, from its parsed flags."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.data.audited_labels import guard_labeler
from megatron_srp.data.preprocess.allocator import keep_freed_memory
from megatron_srp.data.preprocess.shard_inputs import expand_shards, shard_tokenizer
from megatron_srp.data.preprocess.shard_pipeline import ShardJob
from megatron_srp.data.preprocess.shard_settings import ShardJobSettings
from megatron_srp.data.preprocess.text_job import judge_of
from megatron_srp.data.reflect import GuardLabeler, Labeler
from megatron_srp.data.shards.manifest import find_manifest, finished_output
from megatron_srp.tokenization.end_of_document import eos_note

if TYPE_CHECKING:
    from megatron_srp.terminal.progress import Display


def run_shard_job(
    args: argparse.Namespace, display: "Display", urls: Mapping[Path, str]
) -> tuple[list[Path], dict[str, Any]]:
    """Make a sidecar, or a new shard, for each of `--input-shards`. Returns their prefixes, and the manifest.

    Args:
        urls: as in `ShardJobSettings`.
    """
    keep_freed_memory()
    shards = expand_shards(args.input_shards)
    labeler = _labeler(args, shards)
    settings = _settings(args, shards, labeler, urls)
    uploaded_next = settings.output_prefix in urls  # a run that stopped in its upload has finished here
    if uploaded_next and not args.overwrite and (made := finished_output(settings.output_prefix, settings.describe())):
        return shards, made
    job = ShardJob(
        settings,
        labeler,
        workers=args.workers,
        chunk_documents=args.chunk_documents,
        overwrite=args.overwrite,
        report=display.update,
    )
    eod_is_known = args.eod_token is not None or any(map(find_manifest, shards))
    if not eod_is_known and (note := eos_note(settings.tokenizer)):
        display.note(f"note: {note}")
    if not job.output.finished and (at := job.position):
        display.note(f"resuming at shard {at['file'] + 1} of {len(shards)}, sequence {at['row'] + 1}")
    return shards, job.run()


def _settings(
    args: argparse.Namespace, shards: list[Path], labeler: Labeler, urls: Mapping[Path, str]
) -> ShardJobSettings:
    tokenizer = shard_tokenizer(shards, args.tokenizer_type, args.tokenizer_model, args.eod_token)
    judge = judge_of(args)
    if isinstance(labeler, GuardLabeler):
        judge |= labeler.settings  # a name alone is not the guard: a run must not resume with another
    return ShardJobSettings(
        shards, Path(args.output_prefix), tokenizer, args.policy, args.max_words, judge, args.materialize, urls
    )


def _labeler(args: argparse.Namespace, shards: list[Path]) -> Labeler:
    if not args.annotations:
        return guard_labeler(
            load_guard(args.guard, GuardOptions(engine_options=args.guard_option, context_words=args.context_words))
        )
    from megatron_srp.annotation.store.store import AnnotationStore
    from megatron_srp.data.preprocess.labels_by_text import HashLabeler

    names = [str(shard) for shard in shards]
    store = AnnotationStore(args.annotations)
    return HashLabeler(store, args.json_keys[0], names, args.max_words, args.failed_as, args.hints)
