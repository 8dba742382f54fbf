"""Outputs and stores on S3, of which a command works on a copy in a folder on this machine."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_srp.corpus.partitions import Partition
from megatron_srp.errors import UsageError
from megatron_srp.remote.drivers import on_s3
from megatron_srp.remote.objects import WORK_DIR, is_remote_output, twin, url_of

if TYPE_CHECKING:
    from megatron_srp.data.shards.upload import ShardUpload


def add_work_dir(group: "argparse._ActionsContainer") -> None:
    group.add_argument(
        "--work-dir",
        default=WORK_DIR,
        metavar="DIR",
        help="for data on s3://: local folder for copies of what is read and for output before its upload, from which "
        "a stopped run resumes",
    )


def check_outputs(args: argparse.Namespace) -> None:
    """Raises UsageError for an output of `srp preprocess` that cannot be where the flags want it."""
    if not is_remote_output(args.output_prefix, "--output-prefix"):
        return
    if args.output_prefix.count("/") < 3:
        raise UsageError(f"--output-prefix {args.output_prefix}: has no name; pass s3://BUCKET/FOLDER/NAME")
    if args.executor == "ray":
        raise UsageError(
            f"--output-prefix {args.output_prefix}: --executor ray writes to a folder of this machine; pass one"
        )


def shard_upload(args: argparse.Namespace, partition: Partition | None) -> "ShardUpload | None":
    """The upload of the output if it is to be on S3; `args.output_prefix` becomes the one on this machine."""
    if not is_remote_output(args.output_prefix, "--output-prefix"):
        return None
    from megatron_srp.data.shards.upload import ShardUpload

    upload = ShardUpload(partition.prefix(args.output_prefix) if partition else args.output_prefix, args.work_dir)
    upload.prepare(args.overwrite, keep_finished=partition is not None)
    args.output_prefix = str(ShardUpload(args.output_prefix, args.work_dir).prefix)
    return upload


@contextmanager
def fetched_outputs(
    prefixes: Sequence[str], work: str, files: bool = True, plain: bool = False
) -> Iterator[list[str | Path]]:
    """The prefixes, those on S3 replaced by copies of what is there, which go when the block has done its work.

    Args:
        files: whether the shards are wanted too, or the manifests alone.
        plain: whether, of sidecars, the shards next to them that they are for are wanted too.
    """
    from megatron_srp.data.shards.download import fetch_outputs, fetch_plain_shards, remove_copies

    names: list[str | Path] = []
    copies: list[Path] = []
    others: list[Path] = []
    for prefix in prefixes:
        if is_remote_output(prefix, "PREFIX"):
            found = list(fetch_outputs(prefix, work, files))
            copies += found
            names += found
            if plain:
                others += [copy for name in found for copy in fetch_plain_shards(name, url_of(name, work), work)]
        else:
            names.append(prefix)
    yield names
    remove_copies(copies)
    for copy in others:
        copy.unlink(missing_ok=True)


@contextmanager
def fetched_output(prefix: str, work: str) -> Iterator[str | Path]:
    """As `fetched_outputs`, for a command that takes one, or one shard; of several on S3, nothing is fetched."""
    from megatron_srp.data.shards.sidecar import sidecar_path

    with fetched_outputs([prefix], work, files=False) as names:
        found = [url_of(name, work) for name in names]
    if len(found) > 1:
        raise UsageError(f"{prefix} names {len(found)} outputs; pass one of them: {', '.join(found)}")
    with fetched_outputs([prefix], work, plain=True) as (name,):
        shard = twin(prefix, work)
        yield shard if on_s3(prefix) and sidecar_path(shard).exists() else name


@contextmanager
def fetched_shard(prefix: str | None, work: str) -> Iterator[str | None]:
    """A shard's prefix; that of one on S3 replaced by a copy's, which goes when the block has done its work."""
    if prefix is None or not on_s3(prefix):
        yield prefix
        return
    from megatron_srp.data.shards.download import fetch_shards

    (_, files), *others = fetch_shards(prefix, work)
    if others:
        raise UsageError(f"{prefix} names {1 + len(others)} shards; pass one of them")
    yield str(files[0].with_suffix(""))
    for file in files:
        file.unlink(missing_ok=True)


def with_urls(text: str, work: str) -> str:
    """What is said about copies, about what they are copies of."""
    return text.replace(f"{Path(work) / 's3'}/", "s3://")


@contextmanager
def fetched_shards(args: argparse.Namespace) -> Iterator[dict[Path, str]]:
    """Of shards on S3, bring copies here, which go when the block has done its work; `args.input_shards` become those.

    Yields:
        The URLs of the copies, by their prefixes.
    """
    from megatron_srp.data.shards.download import fetch_shards

    urls: dict[Path, str] = {}
    copies: list[Path] = []
    patterns, args.input_shards = args.input_shards, []
    for pattern in patterns:
        if not on_s3(pattern):
            args.input_shards.append(pattern)
            continue
        for url, files in fetch_shards(pattern, args.work_dir):
            prefix = files[0].with_suffix("")
            urls[prefix] = url
            args.input_shards.append(str(prefix))
            copies += files
    yield urls
    for copy in copies:
        copy.unlink(missing_ok=True)


def fetch_store(args: argparse.Namespace) -> None:
    """Of a store on S3, bring a copy here and let `args.annotations` be that."""
    if args.annotations and is_remote_output(args.annotations, "--store"):
        from megatron_srp.annotation.store.store import store_mirror

        mirror = store_mirror(args.annotations, args.work_dir)
        mirror.download()
        args.annotations = str(mirror.folder)


@contextmanager
def mirrored_store(args: argparse.Namespace) -> Iterator[str]:
    """The folder of `--store`; of one on S3 a copy, uploaded at the end, however the run ends: parts are whole."""
    if not is_remote_output(args.store, "--store"):
        yield args.store
        return
    from megatron_srp.annotation.store.store import store_mirror

    mirror = store_mirror(args.store, args.work_dir)
    mirror.download()
    try:
        yield str(mirror.folder)
    finally:
        mirror.upload()
