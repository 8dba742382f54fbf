"""Finished outputs and shards on S3, copied into the work folder of this machine, where they are read."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from megatron_srp.corpus.partitions import parse_name
from megatron_srp.data.shards.manifest import (
    SUFFIX,
    find_remote_manifest,
    manifest_path,
    parse_manifest,
    read_manifest,
)
from megatron_srp.data.shards.sidecar import ReflectionSidecar, sidecar_path
from megatron_srp.errors import InputError, UsageError
from megatron_srp.remote.copies import copy_object
from megatron_srp.remote.expand import find_remote
from megatron_srp.remote.objects import Objects, file_name, split_output, twin


def fetch_outputs(url: str, folder: Path, files: bool = True) -> Iterator[Path]:
    """Copy the output `url`, or the partitions that it is the common prefix of, and yield the copies' prefixes.

    A file that a manifest lists and S3 lacks is left out: the command that reads the copies says so.

    Args:
        url: the output prefix, s3://BUCKET/FOLDER/NAME, or that of one of an output's shards or sidecars.
        folder: for the copies.
        files: whether the shards are wanted too, or the manifests alone.

    Raises:
        InputError: when nothing is there.
        UsageError: for a URL that is not of this form.
    """
    where, name = split_output(url.removesuffix(SUFFIX))
    objects, here = Objects(where), twin(where, folder)
    there = objects.all()
    for output in _outputs(objects, there, name):
        content = objects.read(f"{output}{SUFFIX}")
        manifest = parse_manifest(content, f"{where}/{output}{SUFFIX}")
        for file in _files(manifest) if files else ():
            try:
                file_name(file)
            except UsageError:
                raise InputError(f"{where}/{output}{SUFFIX}: lists {file!r}, which is not next to it") from None
            if file in there:
                objects.download(file, here / file)
        here.mkdir(parents=True, exist_ok=True)
        manifest_path(here / output).write_bytes(content)
        yield here / output


def _outputs(objects: Objects, there: Collection[str], name: str) -> list[str]:
    """The output of that name, the partitions whose common prefix it is, or the output that lists it as a shard."""
    made = {path.removesuffix(SUFFIX) for path in there if path.endswith(SUFFIX) and "/" not in path}
    if name in made:
        return [name]
    partitions = {parts[1]: output for output in made if (parts := parse_name(output)) and parts[0] == name}
    if partitions:
        count = max(parts[2] for output in partitions.values() if (parts := parse_name(output)))
        if missing := [str(index) for index in range(count) if index not in partitions]:
            raise InputError(f"{objects.url}/{name}: of {count} partitions, {', '.join(missing)} is not finished there")
        return [partitions[index] for index in sorted(partitions)]
    for output in sorted(made):
        if name.startswith(output) and _lists(objects, output, name):
            return [output]
    raise InputError(f"{objects.url}/{name}: no finished output is there; `srp preprocess` uploads its manifest last")


def _lists(objects: Objects, output: str, shard: str) -> bool:
    with suppress(InputError):  # another output's, which is damaged
        manifest = parse_manifest(objects.read(f"{output}{SUFFIX}"), output)
        return any(entry["name"] == shard for kind in ("shards", "sidecars") for entry in manifest.get(kind) or [])
    return False


def _files(manifest: dict[str, Any]) -> list[str]:
    """What a manifest lists, and the sidecars that may be next to its shards."""
    names = [entry["name"] for kind in ("shards", "sidecars") for entry in manifest.get(kind) or []]
    shards = {f"{name}.{suffix}" for name in names for suffix in ("bin", "idx", "srp")}
    return sorted(shards | {*(manifest["files"] or {})})


def fetch_plain_shards(output: Path, url: str, folder: Path) -> None:
    """Copy the shards that an output's sidecars are for, where they are next to it on S3.

    Args:
        output: the prefix of its copy.
        url: that of the output itself.
        folder: for the copies.
    """
    where = url.rpartition("/")[0]
    for entry in read_manifest(manifest_path(output)).get("sidecars") or []:
        with suppress(InputError, KeyError):  # the command that reads it says what is wrong with it
            made_for = ReflectionSidecar.load(sidecar_path(output.with_name(entry["name"]))).info["shard"]["name"]
            shard = Path(made_for).name
            if Objects(where).exists(f"{shard}.idx"):
                for _ in fetch_shards(f"{where}/{shard}", folder):
                    pass


def fetch_shards(pattern: str, folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Copy the shards whose prefixes `pattern` matches, with their manifests, and yield each one's URL and its copies.

    What an earlier try has copied is not fetched again. The first of the copies is the .bin.

    Args:
        pattern: a shard's prefix, s3://BUCKET/FOLDER/NAME, or a pattern of such prefixes.
        folder: for the copies.

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
        yield url, [_copied(file, folder) for file in files]


def _copied(url: str, folder: Path) -> Path:
    copy_object(url, copy := twin(url, folder))
    return copy
