"""The inverse operation: from reflected shards to the plain ones they were made from."""

from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.data.policies.policy import is_treated, policy_name
from megatron_srp.data.reflect import NO_CUTS, ReflectedBatch
from megatron_srp.data.reflection_table import Reflections, ReflectionTable
from megatron_srp.data.shards.indexed_shard import IndexedShard, bin_path, idx_path, sequence_blocks
from megatron_srp.data.shards.manifest import manifest_path, read_manifest, sum_counts
from megatron_srp.data.shards.output import Output
from megatron_srp.data.shards.shard_writer import ShardWriter
from megatron_srp.data.shards.sidecar import ReflectionSidecar, sidecar_path
from megatron_srp.errors import InputError, UsageError

# What reflections add to the settings of a manifest: those of the policy, of the segments, and of the labels' source.
_OF_REFLECTIONS = {"reflection", "policy", "max_words", "annotations", "failed_as", "hints", "materialize"}
_OF_REFLECTIONS |= {"guard", "guard_revision", "guard_settings"}


def plain_tokens(
    shard: IndexedShard, sidecar: ReflectionSidecar, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences begin..end without their reflections: their tokens, flat, and lengths int32.

    Raises:
        InputError: when there are other tokens where the sidecar says its reflections are.
    """
    tokens, lengths = shard.run(begin, end)
    offsets = sidecar.offsets[begin : end + 1]
    counts, inside = np.diff(offsets), None
    if offsets[0] >= 0 and (counts >= 0).all() and offsets[-1] <= len(sidecar.cuts):
        sizes, inside = _inside(tokens, lengths, counts, sidecar.reflections(begin, end))
    if inside is None:
        raise InputError(
            f"{bin_path(shard.prefix)}: sequences {begin} to {end - 1} do not hold the reflections that "
            f"{sidecar_path(shard.prefix)} lists; do the two files belong together?"
        )
    keep = np.ones(len(tokens), bool)
    keep[inside] = False
    added = np.bincount(np.repeat(np.arange(end - begin), counts), weights=sizes, minlength=end - begin)
    return tokens[keep], (lengths - added.astype(np.int64)).astype(np.int32)


def _inside(
    tokens: np.ndarray,
    lengths: np.ndarray,
    counts: np.ndarray,
    reflections: Reflections,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Sizes of the reflections, and which tokens are theirs; None where there are other tokens in their places."""
    if not reflections.sound() or (reflections.segment_sizes(counts) < 0).any():
        return reflections.entries, None
    sizes, inside = reflections.sizes(), reflections.places(lengths, counts)
    if len(inside) and (inside.max() >= len(tokens) or (tokens[inside] != reflections.ids()).any()):
        return sizes, None
    return sizes, inside


def strip_reflections(prefix: str | Path, output_prefix: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Write the shards of PREFIX.srp.json without reflections. Returns the new manifest.

    Raises:
        InputError: when the shards carry no reflections, or are damaged.
    """
    manifest = read_manifest(manifest_path(prefix))
    if not is_treated(manifest) or not manifest["shards"]:
        raise InputError(f"{prefix}: these shards carry no reflections; there is nothing to strip")
    for shard in manifest["shards"]:
        _refuse_dropped(sidecar_path(Path(prefix).with_name(shard["name"])))
    target = Path(output_prefix)
    if target.resolve() == Path(prefix).resolve():
        raise UsageError(f"{prefix} cannot be stripped onto itself; pass another output prefix")
    own = Path(prefix).name
    names = {s["name"]: f"{target.name}_{s['name'].removeprefix(own).removeprefix('_')}" for s in manifest["shards"]}
    finals = [path(target.with_name(name)) for name in names.values() for path in (bin_path, idx_path, sidecar_path)]
    output = Output(target, {"stripped": str(Path(prefix).resolve())}, finals, overwrite=overwrite)
    if output.finished:
        return output.finished
    moves: dict[Path, Path] = {}
    shards = []
    try:
        with output.writing():
            for shard in manifest["shards"]:
                writer = _strip(Path(prefix).with_name(shard["name"]), output.folder, names[shard["name"]])
                moves |= writer.finish({}, reflected=False)
                shard.pop("hints", None)
                manifest.pop("policy", None)
                shards.append(shard | dict(writer.counts) | writer.verdict_counts() | {"name": writer.name})
            given = manifest.get("settings") or {}
            settings = {name: value for name, value in given.items() if name not in _OF_REFLECTIONS}
            counts = sum_counts(shards)
            plain = {"shards": shards, "counts": counts, "reflection": None, "settings": settings}
            return output.finish(moves, manifest | plain)
    finally:
        output.close()


def _refuse_dropped(path: Path) -> None:
    if path.is_file() and (sidecar := ReflectionSidecar.load(path)).table.drops():
        raise InputError(
            f"{path}: the policy {policy_name(sidecar.info)} left text out of this shard, which cannot be put back; "
            "make a plain shard of the corpus with `srp preprocess --guard none`"
        )


def _strip(prefix: Path, folder: Path, name: str) -> ShardWriter:
    shard, sidecar = IndexedShard(prefix), ReflectionSidecar.load(sidecar_path(prefix))
    if len(shard) != len(sidecar) or not sidecar.materialized:
        raise InputError(
            f"{sidecar_path(prefix)} does not belong to {bin_path(prefix)}: they differ in their sequences"
        )
    writer = ShardWriter(folder, name, shard.dtype)
    if int(shard.lengths.sum(dtype=np.int64)) != len(shard.tokens):
        raise InputError(f"{bin_path(prefix)} is not as long as its index says; see `srp verify`")
    writer.documents = shard.documents
    for begin, end in sequence_blocks(shard.lengths):
        tokens, lengths = plain_tokens(shard, sidecar, begin, end)
        counts = np.zeros(len(lengths), np.int32)
        writer.append(ReflectedBatch(tokens, lengths, len(tokens), *NO_CUTS, counts, ReflectionTable(), 0))
    return writer
