"""Checks a manifest's tokenizer, counts and checksums."""

from pathlib import Path, PurePath
from typing import Any

import numpy as np

from megatron_srp.data.policies.policy import is_treated
from megatron_srp.data.shards.indexed_shard import Index
from megatron_srp.data.shards.manifest import sum_counts
from megatron_srp.data.shards.shard_writer import count_labels
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.training_tokenizer import moved_tokenizer
from megatron_srp.data.verify.findings import Findings
from megatron_srp.errors import UsageError
from megatron_srp.files import checksum
from megatron_srp.tokenization import TextTokenizer, load_tokenizer

_BLOCK = 1 << 22  # reflections at a time


def described_tokenizer(
    path: Path, described: dict[str, Any], given: TextTokenizer | None, findings: Findings
) -> TextTokenizer | None:
    """The tokenizer that the file at `path` describes, if it is available and the same.

    Args:
        given: a tokenizer to use instead.
    """
    try:
        tokenizer = given or load_tokenizer(described["type"], moved_tokenizer(path.parent, Path(described["model"])))
        if tokenizer.fingerprint == described.get("fingerprint"):
            tokenizer = tokenizer.ending_documents_with(described.get("eod_token"))
    except UsageError as error:
        findings.unchecked.append(f"what the ids of reflections mean ({error}); pass --tokenizer-model")
        return None
    for name in ("fingerprint", "vocab_size", "eos_id"):
        if described.get(name) != (found := getattr(tokenizer, name)):
            findings.add(
                path, f"the tokenizer's {name} is {described.get(name)}, but {tokenizer.model} has {found}: another one"
            )
            return None
    return tokenizer


def verify_reflection_settings(
    path: Path, manifest: dict[str, Any], sidecar_file: Path, sidecar: ReflectionSidecar, findings: Findings
) -> None:
    """Check that manifest and sidecar are from the same run."""
    settings = manifest.get("settings") or {}
    if sidecar.materialized and not is_treated(manifest):
        findings.add(sidecar_file, f"it is for reflections inside the shard, but {path.name} says there are none")
    written = [(name, manifest.get(name)) for name in ("reflection", "policy")]
    for name, said in (*written, ("tokenizer", settings.get("tokenizer"))):
        if said and sidecar.materialized and sidecar.info.get(name) != said:
            findings.add(sidecar_file, f"its {name} is not the one that {path.name} names")


def verify_counts(
    path: Path, shard: dict[str, Any], index: Index, sidecar: ReflectionSidecar | None, findings: Findings
) -> None:
    """Recount what `shard`, an entry of the manifest at `path`, counts."""
    tokens = sum(int(index.lengths[i : i + _BLOCK].sum(dtype=np.int64)) for i in range(0, len(index.lengths), _BLOCK))
    found: dict[str, Any] = {"dtype": str(index.dtype), "documents": len(index.lengths), "tokens": tokens}
    if sidecar and sidecar.materialized:
        found |= _reflections(sidecar)
        found["plain_tokens"] = tokens - found.pop("reflection_tokens")
    _compare(path, shard, found, findings)


def verify_sidecar_counts(path: Path, entry: dict[str, Any], sidecar: ReflectionSidecar, findings: Findings) -> None:
    """Recount what `entry`, of a sidecar without a shard of its own, counts."""
    found = _reflections(sidecar)
    size = found.pop("reflection_tokens")
    tokens, plain = entry.get("tokens"), entry.get("plain_tokens")
    if not isinstance(tokens, int) or not isinstance(plain, int) or tokens - plain != size:
        findings.add(path, f"tokens of {entry['name']} are not {size} more than its plain_tokens")
    _compare(path, entry, found, findings)


def _reflections(sidecar: ReflectionSidecar) -> dict[str, Any]:
    times = np.zeros(len(sidecar.table), np.int64)
    for i in range(0, len(sidecar.entries), _BLOCK):
        times += np.bincount(sidecar.entries[i : i + _BLOCK], minlength=len(times))
    counts: dict[str, Any] = {"segments": len(sidecar.entries) - int(times[sidecar.table.inside()].sum())}
    hints = len(sidecar.hints.ids) if sidecar.hints else 0
    counts["reflection_tokens"] = int(times @ sidecar.table.sizes()) + hints - sidecar.dropped_tokens()
    return counts | count_labels(zip(sidecar.table.entries, times.tolist(), strict=True))


def _compare(path: Path, recorded: dict[str, Any], found: dict[str, Any], findings: Findings) -> None:
    for name, value in found.items():
        if recorded.get(name, 0) != value:
            findings.add(path, f"{name} of {recorded['name']} are {recorded.get(name)}, but it has {value}")


def verify_sums(path: Path, manifest: dict[str, Any], findings: Findings) -> None:
    """Check that the manifest's counts are the sums over its shards and sidecars."""
    try:
        sums = sum_counts([*manifest["shards"], *(manifest.get("sidecars") or [])])
    except (AttributeError, KeyError, TypeError):
        sums = {}
    if manifest.get("counts") != sums:
        findings.add(path, "its counts are not the sums of its shards'")


def verify_files(path: Path, files: dict[str, Any] | None, quick: bool, findings: Findings) -> None:
    """Compare the files that the manifest at `path` lists with their sizes and, unless `quick`, checksums."""
    if files is None:
        findings.unchecked.append(f"checksums: {path} has none")
        return
    for name, recorded in files.items():
        file = path.parent / name
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            findings.add(path, f"it lists {name}, which is not next to it")
        elif not file.is_file():
            findings.add(file, "no such file")
        elif file.stat().st_size != recorded["bytes"]:
            findings.add(file, f"{file.stat().st_size:,} bytes, but its manifest says {recorded['bytes']:,}")
        elif not quick and checksum(file) != recorded:
            findings.add(file, "its checksum is not the manifest's: some bytes of it have changed")
