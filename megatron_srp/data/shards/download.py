"""Finished outputs and shards on S3, copied into the work folder of this machine, where they are read."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from megatron_srp.corpus.partitions import parse_name
from megatron_srp.data.shards.manifest import SUFFIX, find_remote_manifest, manifest_path, read_manifest
from megatron_srp.data.shards.sidecar import ReflectionSidecar, sidecar_path
from megatron_srp.errors import InputError
from megatron_srp.files import checksum
from megatron_srp.remote.copies import copy_object
from megatron_srp.remote.expand import find_remote
from megatron_srp.remote.objects import Objects, twin


def fetch_outputs(url: str, work: str | Path, files: bool = True) -> Iterator[Path]:
    """Copy the output `url`, or the partitions that it is the common prefix of, and yield the copies' prefixes.

    What an earlier try has copied is not fetched again.

    Args:
        url: the output prefix, s3://BUCKET/FOLDER/NAME, or that of one of an output's shards or sidecars.
        work: the folder for the copies.
        files: whether the shards are wanted too, or the manifests alone.

    Raises:
        InputError: when nothing is there.
    """
    folder, _, name = url.removesuffix(SUFFIX).rpartition("/")
    objects, here = Objects(folder), twin(folder, work)
    there = {path.removesuffix(SUFFIX) for path in objects.all() if path.endswith(SUFFIX) and "/" not in path}
    found = [name] if name in there else sorted(made for made in there if (parse_name(made) or ("",))[0] == name)
    found = found or [made for made in there if name.startswith(made) and _lists(objects, made, name)][:1]
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


def _lists(objects: Objects, output: str, shard: str) -> bool:
    manifest = orjson.loads(objects.read(f"{output}{SUFFIX}"))
    return any(entry["name"] == shard for kind in ("shards", "sidecars") for entry in manifest.get(kind) or [])


def fetch_plain_shards(output: Path, url: str, work: str | Path) -> Iterator[Path]:
    """Copy the shards that an output's sidecars are for, where they are next to it on S3, and yield the copies' files.

    Args:
        output: the prefix of its copy.
        url: that of the output itself.
        work: the folder for the copies.
    """
    for entry in read_manifest(manifest_path(output)).get("sidecars") or []:
        try:
            made_for = ReflectionSidecar.load(sidecar_path(output.with_name(entry["name"]))).info["shard"]["name"]
        except (InputError, KeyError):  # the command that reads it says what is wrong with it
            continue
        folder, shard = url.rpartition("/")[0], Path(made_for).name
        if Objects(folder).exists(f"{shard}.idx"):
            for _, copies in fetch_shards(f"{folder}/{shard}", work):
                yield from copies


def remove_copies(prefixes: Sequence[Path]) -> None:
    """Remove what `fetch_outputs` has copied."""
    for prefix in prefixes:
        for file in read_manifest(manifest_path(prefix))["files"]:
            (prefix.parent / file).unlink(missing_ok=True)
        manifest_path(prefix).unlink()


def fetch_shards(pattern: str, work: str | Path) -> Iterator[tuple[str, list[Path]]]:
    """Copy the shards whose prefixes `pattern` matches, with their manifests, and yield each one's URL and its copies.

    What an earlier try has copied is not fetched again. The first of the copies is the .bin.

    Args:
        pattern: a shard's prefix, s3://BUCKET/FOLDER/NAME, or a pattern of such prefixes.
        work: the folder for the copies.

    Raises:
        InputError: when nothing is there.
    """
    indices = [str(file) for file in find_remote(f"{pattern}.idx")[0]]
    if not indices:
        raise InputError(f"{pattern}: no shard matches; is the pattern quoted against the shell?")
    for index in indices:
        url = index.removesuffix(".idx")
        manifest = find_remote_manifest(url)
        files = [f"{url}.bin", index, *([str(manifest)] if manifest else [])]
        yield url, [_copied(file, work) for file in files]


def _copied(url: str, work: str | Path) -> Path:
    copy_object(url, copy := twin(url, work))
    return copy
