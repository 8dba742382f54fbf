"""The way back: reflected shards to the plain ones they were made from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.corpus.batch import ranges
from megatron_srp.data.builder import sum_counts
from megatron_srp.data.indexed_shard import IndexedShard, bin_path, idx_path
from megatron_srp.data.interleave import ReflectionTable
from megatron_srp.data.manifest import manifest_path, read_manifest
from megatron_srp.data.output import Output
from megatron_srp.data.reflect import NO_CUTS, ReflectedBatch
from megatron_srp.data.shard_writer import ShardWriter
from megatron_srp.data.sidecar import ReflectionSidecar, sidecar_path
from megatron_srp.errors import InputError

_BLOCK_TOKENS = 1 << 22


def _blocks(lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of sequences of about _BLOCK_TOKENS tokens each."""
    ends = np.cumsum(lengths, dtype=np.int64)
    begin = 0
    while begin < len(lengths):
        reached = ends[begin] - lengths[begin] + _BLOCK_TOKENS
        end = max(int(np.searchsorted(ends, reached, "right")), begin + 1)
        yield begin, end
        begin = end


def plain_tokens(
    shard: IndexedShard, sidecar: ReflectionSidecar, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences begin..end without their reflections: their tokens, flat, and lengths int32.

    Raises:
        InputError: when other tokens than the sidecar's reflections stand where it says they are.
    """
    flat, entry_offsets = sidecar.table.arrays()
    entries = sidecar.entries[sidecar.offsets[begin] : sidecar.offsets[end]]
    cuts = sidecar.cuts[sidecar.offsets[begin] : sidecar.offsets[end]]
    counts = np.diff(sidecar.offsets[begin : end + 1])
    sizes = np.diff(entry_offsets)[entries]
    lengths = shard.lengths[begin:end].astype(np.int64)
    first = int(shard.pointers[begin]) // shard.dtype.itemsize
    tokens = np.asarray(shard.tokens[first : first + int(lengths.sum())])
    before = np.cumsum(sizes) - sizes  # reflection tokens of the block before each reflection
    row_start = np.cumsum(lengths) - lengths
    row_before = np.append(before, 0)[np.minimum(np.cumsum(counts) - counts, len(sizes))]
    starts = np.repeat(row_start - row_before, counts) + before + cuts
    inside = ranges(starts, sizes)
    expected = flat[ranges(entry_offsets[entries], sizes)]
    if len(inside) and (inside.max() >= len(tokens) or not np.array_equal(tokens[inside], expected)):
        raise InputError(
            f"{bin_path(shard.prefix)}: sequences {begin} to {end - 1} do not hold the reflections that "
            f"{sidecar_path(shard.prefix)} lists; do the two files belong together?"
        )
    keep = np.ones(len(tokens), bool)
    keep[inside] = False
    added = np.bincount(np.repeat(np.arange(end - begin), counts), weights=sizes, minlength=end - begin)
    return tokens[keep], (lengths - added.astype(np.int64)).astype(np.int32)


def strip_reflections(prefix: str | Path, output_prefix: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Write the shards of PREFIX.srp.json without reflections. Returns the new manifest.

    Raises:
        InputError: when the shards carry no reflections, or are damaged.
    """
    manifest = read_manifest(manifest_path(prefix))
    if not manifest["reflection"] or not manifest["shards"]:
        raise InputError(f"{prefix}: these shards carry no reflections; there is nothing to strip")
    target = Path(output_prefix)
    own = Path(prefix).name
    names = {s["name"]: f"{target.name}_{s['name'].removeprefix(own).removeprefix('_')}" for s in manifest["shards"]}
    finals = [path(target.with_name(name)) for name in names.values() for path in (bin_path, idx_path)]
    output = Output(target, {"stripped": str(Path(prefix).resolve())}, finals, overwrite=overwrite)
    moves: dict[Path, Path] = {}
    shards = []
    try:
        for shard in manifest["shards"]:
            writer = _strip(Path(prefix).with_name(shard["name"]), output.folder, names[shard["name"]])
            moves |= writer.finish({}, reflected=False)
            shards.append(shard | dict(writer.counts) | writer.verdict_counts() | {"name": writer.name})
    except BaseException:
        output.close()
        raise
    plain = manifest | {"shards": shards, "counts": sum_counts(shards), "reflection": None}
    output.finish(moves, plain)
    return plain


def _strip(prefix: Path, folder: Path, name: str) -> ShardWriter:
    shard, sidecar = IndexedShard(prefix), ReflectionSidecar.load(sidecar_path(prefix))
    if len(shard) != len(sidecar) or not sidecar.materialized:
        raise InputError(
            f"{sidecar_path(prefix)} does not belong to {bin_path(prefix)}: they differ in their sequences"
        )
    writer = ShardWriter(folder, name, shard.dtype)
    writer.documents = shard.documents
    for begin, end in _blocks(shard.lengths):
        tokens, lengths = plain_tokens(shard, sidecar, begin, end)
        counts = np.zeros(len(lengths), np.int32)
        writer.append(ReflectedBatch(tokens, lengths, len(tokens), *NO_CUTS, counts, ReflectionTable(), 0))
    return writer
