"""PREFIX.srp.json: what a run wrote, from what, and with which settings. Written last: a shard without a
manifest is not finished.

    format_version, shards[], sidecars[], counts, tokenizer, reflection, settings, software   what was made, and how
    files{}    every file next to the manifest: its `bytes` and `xxh3_128`, by its name
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

from megatron_srp import __version__
from megatron_srp.errors import InputError
from megatron_srp.remote.drivers import on_s3
from megatron_srp.remote.expand import find_remote
from megatron_srp.remote.remembered import remembered_on_s3
from megatron_srp.remote.remote_file import InputFile, RemoteFile

SUFFIX = ".srp.json"
FORMAT_VERSION = 1


def manifest_path(output_prefix: str | Path) -> Path:
    return Path(f"{output_prefix}{SUFFIX}")


def software_versions() -> dict[str, str]:
    """Versions of the packages that determine the bytes of a shard."""
    return token_software() | _versions("numpy", "pyarrow")


def token_software() -> dict[str, str]:
    """Versions of the packages that determine which tokens a shard contains."""
    return {"megatron-srp": __version__} | _versions("gigatoken", "tokenizers", "sentencepiece")


def _versions(*packages: str) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def read_manifest(path: InputFile) -> dict[str, Any]:
    """The manifest at `path`; raises InputError when it is missing or invalid."""
    try:
        with path.open("rb") as file:
            return parse_manifest(file.read(), path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; was this shard written by `srp preprocess`?") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def parse_manifest(content: bytes, path: InputFile | str) -> dict[str, Any]:
    """The manifest that a file contains; raises InputError when it is invalid."""
    try:
        manifest = orjson.loads(content)
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: not a manifest of version {FORMAT_VERSION}")
    if wrong := [name for name, has_form in _FORM.items() if not has_form(manifest.get(name))]:
        raise InputError(f"{path}: damaged, its {wrong[0]!r} is not that of a manifest")
    return manifest


def finished_output(output_prefix: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of an existing output, if it was made with these settings."""
    path = manifest_path(output_prefix)
    manifest = read_manifest(path) if path.exists() else None
    return manifest if manifest and manifest["settings"] == json.loads(json.dumps(settings)) else None


def _has(record: Any, **kinds: type | tuple[type, ...]) -> bool:
    return isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in kinds.items())


def _are_named(files: Any) -> bool:
    """Whether they are records of files next to the manifest."""
    return isinstance(files, list) and all(_has(f, name=str) and Path(f["name"]).name == f["name"] for f in files)


_MAYBE_INT, _MAYBE_DICT, _MAYBE_STR = (int, type(None)), (dict, type(None)), (str, type(None))
# What every reader of a manifest relies on.
_FORM: dict[str, Callable[[Any], bool]] = {
    "shards": _are_named,
    "sidecars": lambda sidecars: sidecars is None or _are_named(sidecars),
    "tokenizer": lambda tokenizer: _has(
        tokenizer,
        type=str,
        model=str,
        fingerprint=str,
        vocab_size=_MAYBE_INT,
        eos_id=_MAYBE_INT,
        eod_token=_MAYBE_STR,
    ),
    "reflection": lambda reflection: isinstance(reflection, _MAYBE_DICT),
    "settings": lambda settings: isinstance(settings, _MAYBE_DICT),
    "files": lambda files: (
        isinstance(files, _MAYBE_DICT) and all(_has(entry, bytes=int, xxh3_128=str) for entry in (files or {}).values())
    ),
}


def sum_counts(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of the counts of all shards."""
    total: dict[str, Any] = {}
    for name in ("documents", "empty_documents", "segments", "plain_tokens", "tokens"):
        total[name] = sum(shard.get(name, 0) for shard in shards)
    for name in ("verdicts", "categories"):
        keys = sorted({key for shard in shards for key in shard[name]})
        total[name] = {key: sum(shard[name].get(key, 0) for shard in shards) for key in keys}
    hints = sum(shard.get("hints", 0) for shard in shards)
    return total | ({"hints": hints} if hints else {})


def find_manifest_path(data_path: str | Path) -> Path | None:
    """The path of the manifest that lists the shard `data_path` (as `--data-path` takes it), or None."""
    shard = Path(data_path)
    return _listing(shard.name, sorted(shard.parent.glob(f"*{SUFFIX}")))


def find_remote_manifest(data_path: str) -> RemoteFile | None:
    """`find_manifest_path` of a shard on S3."""
    folder, _, name = data_path.rpartition("/")
    return _listing(name, _manifests_in(folder))


def _listing[File: InputFile](shard: str, manifests: Sequence[File]) -> File | None:
    for path in manifests:
        if shard.startswith(path.name.removesuffix(SUFFIX)):
            manifest = read_manifest(path)
            if any(entry["name"] == shard for entry in manifest["shards"]):
                return path
    return None


@remembered_on_s3
def find_manifest(data_path: str) -> dict[str, Any] | None:
    """The manifest that lists the shard `data_path`, or None; those on S3 are read once in a process."""
    path = find_remote_manifest(data_path) if on_s3(data_path) else find_manifest_path(data_path)
    return read_manifest(path) if path else None


@cache
def _manifests_in(folder: str) -> list[RemoteFile]:
    return find_remote(f"{folder}/*{SUFFIX}")[0]
