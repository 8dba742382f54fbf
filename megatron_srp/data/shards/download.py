"""Finished outputs on S3, copied into the work folder of this machine, where they are joined."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from megatron_srp.corpus.partitions import parse_name
from megatron_srp.data.shards.manifest import SUFFIX, manifest_path, read_manifest
from megatron_srp.errors import InputError
from megatron_srp.files import checksum
from megatron_srp.remote.objects import Objects, twin


def fetch_outputs(url: str, work: str | Path, files: bool = True) -> Iterator[Path]:
    """Copy the output `url`, or the partitions that it is the common prefix of, and yield the copies' prefixes.

    What an earlier try has copied is not fetched again.

    Args:
        url: the output prefix, s3://BUCKET/FOLDER/NAME.
        work: the folder for the copies.
        files: whether the shards are wanted too, or the manifests alone.

    Raises:
        InputError: when nothing is there.
    """
    folder, _, name = url.removesuffix(SUFFIX).rpartition("/")
    objects, here = Objects(folder), twin(folder, work)
    there = {path.removesuffix(SUFFIX) for path in objects.all() if path.endswith(SUFFIX) and "/" not in path}
    found = [name] if name in there else sorted(made for made in there if (parse_name(made) or ("",))[0] == name)
    if not found:
        raise InputError(f"{url}: no finished output is there; `srp preprocess` uploads its manifest last")
    for made in found:
        manifest = objects.read(f"{made}{SUFFIX}")
        for file, recorded in orjson.loads(manifest)["files"].items() if files else ():
            if not (here / file).exists() or checksum(here / file) != recorded:
                objects.download(file, here / file)
        here.mkdir(parents=True, exist_ok=True)
        manifest_path(here / made).write_bytes(manifest)
        yield here / made


def remove_copies(prefixes: Sequence[Path]) -> None:
    """Remove what `fetch_outputs` has copied."""
    for prefix in prefixes:
        for file in read_manifest(manifest_path(prefix))["files"]:
            (prefix.parent / file).unlink(missing_ok=True)
        manifest_path(prefix).unlink()
