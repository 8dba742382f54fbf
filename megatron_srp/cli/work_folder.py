"""Outputs and stores on S3, of which a command works on a copy in a folder on this machine."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_srp.cli.parser import on_disk
from megatron_srp.corpus.partitions import Partition
from megatron_srp.errors import InputError, OutputError, UsageError
from megatron_srp.remote.drivers import on_s3
from megatron_srp.remote.objects import WORK_DIR, is_remote_output, split_output, twin, url_of

if TYPE_CHECKING:
    from megatron_srp.data.shards.upload import ShardUpload


def add_work_dir(group: "argparse._ActionsContainer") -> None:
    group.add_argument(
        "--work-dir",
        type=on_disk,
        default=WORK_DIR,
        metavar="DIR",
        help="for data on s3://: local folder for copies of what is read and for output before its upload, from which "
        "a stopped run resumes",
    )


def check_outputs(args: argparse.Namespace) -> None:
    """Raises UsageError for an output of `srp preprocess` that cannot be where the flags want it."""
    if not is_remote_output(args.output_prefix, "--output-prefix"):
        return
    split_output(args.output_prefix)
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
def reading(work: str, *prefixes: str | None) -> Iterator[Path]:
    """The folder for copies of those of the prefixes that are on S3; it is empty again when the block is left.

    It has no files but this run's, so that neither an earlier copy nor an output that waits for its upload is in the
    way. Errors name what is on S3, not its copy.
    """
    from megatron_srp.remote.copies import reading_folder

    folder = Path(work) / "read"
    if not any(prefix and is_remote_output(prefix, "PREFIX") for prefix in prefixes):
        yield folder
        return
    try:
        with reading_folder(folder):
            yield folder
    except (InputError, UsageError, OutputError) as error:
        raise type(error)(with_urls(str(error), folder)) from None


def with_urls(text: str, folder: Path) -> str:
    """What is said about the copies in a folder, about what they are copies of."""
    for name in (folder.resolve(), folder):
        text = text.replace(f"{name}/s3/", "s3://")
    return text


def fetch_outputs(prefixes: Sequence[str], folder: Path, files: bool = True) -> list[str | Path]:
    """The prefixes, those on S3 replaced by copies of what is there.

    Args:
        files: whether the shards are wanted too, or the manifests alone.
    """
    from megatron_srp.data.shards import download

    names: list[str | Path] = []
    for prefix in prefixes:
        names += download.fetch_outputs(prefix, folder, files) if on_s3(prefix) else [prefix]
    return names


def fetch_output(prefix: str, folder: Path) -> str | Path:
    """As `fetch_outputs`, for a command that takes one, or one shard; of several on S3, no shard is fetched."""
    from megatron_srp.data.shards.sidecar import sidecar_path

    found = fetch_outputs([prefix], folder, files=False)
    if len(found) > 1:
        names = ", ".join(url_of(name, folder) for name in found)
        raise UsageError(f"{prefix} names {len(found)} outputs; pass one of them: {names}")
    if not on_s3(prefix):
        return prefix
    (name,) = fetch_outputs([prefix], folder)
    fetch_plain_shards([name], folder)
    shard = twin(prefix, folder)
    return shard if sidecar_path(shard).exists() else name


def fetch_plain_shards(names: Sequence[str | Path], folder: Path) -> None:
    """Of sidecars among these copies, fetch the shards next to them that they are for."""
    from megatron_srp.data.shards import download

    for name in names:
        if isinstance(name, Path):
            download.fetch_plain_shards(name, url_of(name, folder), folder)


def fetch_shard(prefix: str | None, folder: Path) -> str | None:
    """A shard's prefix; that of one on S3 replaced by a copy's."""
    from megatron_srp.data.shards.download import fetch_shards

    if prefix is None or not on_s3(prefix):
        return prefix
    (_, files), *others = fetch_shards(prefix, folder)
    if others:
        raise UsageError(f"{prefix} names {1 + len(others)} shards; pass one of them")
    return str(files[0].with_suffix(""))


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
        for url, files in fetch_shards(pattern, Path(args.work_dir) / "shards"):
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
