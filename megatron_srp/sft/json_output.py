"""A set of conversations as JSON lines, written whole or not at all, with a manifest next to them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_srp.data.shards.manifest import software_versions
from megatron_srp.errors import OutputError, UsageError
from megatron_srp.files import make_folder, replacing, seal, write_json
from megatron_srp.sft.conversation import Conversation

SUFFIX = ".manifest.json"


def check_json_output(path: Path, overwrite: bool) -> None:
    """Raises before the work starts if its result could not be written."""
    for there in (path, Path(f"{path}{SUFFIX}")):
        if there.exists() and not overwrite:
            raise UsageError(f"{there} exists already; pass --overwrite to replace it, or another --out")
    if path.is_dir():
        raise UsageError(f"--out {path}: is a folder; pass a file in it, such as {path / 'sft.jsonl'}")
    try:
        make_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{error.filename or path.parent}: {error.strerror}; choose another --out") from None


def write_json_lines(path: Path, conversations: Iterable[Conversation], manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the lines, then PATH.manifest.json with their checksum; returns the manifest."""
    try:
        with replacing(path, shared=True) as new:
            with new.open("wb") as file:
                file.writelines(conversation.to_json() + b"\n" for conversation in conversations)
            manifest = manifest | {"software": software_versions(), "files": seal(new, path.name)}
            Path(f"{path}{SUFFIX}").unlink(missing_ok=True)
        write_json(Path(f"{path}{SUFFIX}"), manifest)
    except OSError as error:
        raise OutputError(f"{error.filename or path}: {error.strerror}; nothing was written") from None
    return manifest
