"""PREFIX.srp.json: what a run wrote, from what, and with which settings. Written last: a shard that no
manifest names was not finished."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from megatron_srp import __version__
from megatron_srp.errors import InputError

SUFFIX = ".srp.json"
FORMAT_VERSION = 1


def manifest_path(output_prefix: str | Path) -> Path:
    return Path(f"{output_prefix}{SUFFIX}")


def software_versions() -> dict[str, str]:
    """Versions of the packages that decide the bytes of a shard."""
    versions = {"megatron-srp": __version__}
    for package in ("gigatoken", "tokenizers", "sentencepiece", "numpy", "pyarrow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def write_text(path: Path, text: str) -> Path:
    """Write whole or not at all: a new file, synced, then renamed over `path`, which is returned."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return temporary.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_text` of `content` as JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest at `path`; raises InputError when it is missing or not one."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; was this shard written by preprocess_with_reflections.py?") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: not a manifest of version {FORMAT_VERSION}")
    return manifest


def find_manifest(data_path: str | Path) -> dict[str, Any] | None:
    """The manifest that names the shard `data_path` (as `--data-path` takes it), or None."""
    shard = Path(data_path)
    for path in sorted(shard.parent.glob(f"*{SUFFIX}")):
        if shard.name.startswith(path.name.removesuffix(SUFFIX)):
            manifest = read_manifest(path)
            if any(entry["name"] == shard.name for entry in manifest["shards"]):
                return manifest
    return None
