"""Joins shards into one: byte for byte what a single run over all their inputs would have written."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.data.policies.policy import is_treated
from megatron_srp.data.reflect import NO_CUTS, ReflectedBatch
from megatron_srp.data.reflection_table import Reflections, ReflectionTable
from megatron_srp.data.shards.copying import allocated, append_file
from megatron_srp.data.shards.indexed_shard import IndexedShard, bin_path, idx_path
from megatron_srp.data.shards.input_rows import disjoint, file_of, join_rows
from megatron_srp.data.shards.manifest import software_versions, sum_counts
from megatron_srp.data.shards.output import Output
from megatron_srp.data.shards.parts import Part, refuse_different
from megatron_srp.data.shards.shard_writer import ShardWriter
from megatron_srp.data.shards.sidecar import ReflectionSidecar, sidecar_path
from megatron_srp.errors import InputError, OutputError
from megatron_srp.files import digest

_BLOCK = 1 << 18  # sequences at a time


def merge_shards(
    parts: Sequence[Part],
    output_prefix: str | Path,
    overwrite: bool = False,
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Join the shards of `parts`, in that order, under `output_prefix`. Returns the manifest.

    Memory does not grow with the tokens. A stopped merge resumes when it is rerun.

    Args:
        overwrite: replace an existing output.
        report: called after each part with the number of parts copied so far.

    Raises:
        UsageError: when the parts differ in a setting, or an input file is in two of them.
        InputError: when a part's files do not fit its manifest, or no part has a document.
        OutputError: when the disk has too little room.
    """
    refuse_different(parts)
    _refuse_repeated(parts)
    if not any(part.manifest["counts"]["documents"] for part in parts):
        raise InputError("none of the shards has a document; there is nothing to train on")
    target = Path(output_prefix)
    names = {shard["key"]: f"{target.name}_{shard['key']}_document" for shard in parts[0].manifest["shards"]}
    finals = [path(target.with_name(name)) for name in names.values() for path in (bin_path, idx_path, sidecar_path)]
    sources = [[str(part.prefix.resolve()), digest(part.manifest)] for part in parts]
    output = Output(target, {"merged": sources}, finals, overwrite)
    if output.finished:
        return output.finished
    try:
        with output.writing():
            writers, moves = _join(parts, names, output, report)
            tokenizer = _tokenizer(parts[0], target, output.folder, moves)
            output.finish(moves, _manifest(parts, writers, tokenizer))
    except BaseException:
        output.close()
        raise
    assert output.finished is not None
    return output.finished


def _refuse_repeated(parts: Sequence[Part]) -> None:
    seen: dict[str, list[tuple[Part, dict[str, Any]]]] = {}
    for part in parts:
        for source in part.manifest.get("inputs", []):
            others = seen.setdefault(digest(file_of(source)), [])
            others.append((part, source))
            for other, earlier in others[:-1]:
                if other is part or disjoint(earlier, source):
                    continue
                raise InputError(
                    f"{source['file']} is in {other.prefix} and in {part.prefix}; "
                    "its documents would be in the result twice"
                )


def _join(
    parts: Sequence[Part], names: dict[str, str], output: Output, report: Callable[[int], None]
) -> tuple[dict[str, ShardWriter], dict[Path, Path]]:
    """The joined shards in the work folder, and the names their files are to get."""
    state = output.journal["state"] or {"done": 0, "shards": {}}
    dtypes = {key: np.dtype(parts[0].shard(key)["dtype"]) for key in names}
    hints = (parts[0].manifest["reflection"] or {}).get("hints", False)
    writers = {
        key: ShardWriter(output.folder, name, dtypes[key], state["shards"].get(key), hints)
        for key, name in names.items()
    }
    moves: dict[Path, Path] = {}
    try:
        _require_space(parts[state["done"] :], output.folder)
        for done, part in enumerate(parts[state["done"] :], state["done"] + 1):
            for key, writer in writers.items():
                _append(part, part.shard(key), writer)
            output.commit({"done": done, "shards": {key: writer.commit() for key, writer in writers.items()}})
            report(done)
        for writer in writers.values():
            moves |= writer.finish(_sidecar_info(parts[0]), is_treated(parts[0].manifest))
    finally:
        for writer in writers.values():
            writer.close()
    return writers, moves


def _require_space(parts: Sequence[Part], folder: Path) -> None:
    files = [part.prefix.with_name(shard["name"]) for part in parts for shard in part.manifest["shards"]]
    needed = sum(allocated(bin_path(file)) for file in files if bin_path(file).exists())
    # Index and sidecar briefly exist twice, the second time as the streams they are made from.
    small = [path(file) for file in files for path in (idx_path, sidecar_path)]
    needed += 2 * sum(allocated(path) for path in small if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder.parent}: {needed / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB are free; make room, pass "
            "another output prefix, or train on the parts as they are, with --print-blend"
        )


def _append(part: Part, entry: dict[str, Any], writer: ShardWriter) -> None:
    """Append one part's shard to `writer`."""
    prefix = part.prefix.with_name(entry["name"])
    shard = IndexedShard(prefix)
    sidecar = ReflectionSidecar.load(sidecar_path(prefix)) if is_treated(part.manifest) else None
    size = bin_path(prefix).stat().st_size
    fits = (
        len(shard) == entry["documents"] == len(shard.documents) - 1 and size == entry["tokens"] * writer.dtype.itemsize
    )
    if sidecar:
        fits = fits and len(sidecar) == len(shard) and (sidecar.hints is not None) == writer.hints
    if not fits or shard.dtype != writer.dtype:
        raise InputError(f"{prefix}: its files are not those its manifest lists; see `srp verify`")
    if sidecar and not sidecar.materialized:
        raise InputError(f"{sidecar_path(prefix)} belongs to a plain shard; join the plain shards, and rebuild it")
    tokens = 0
    for batch in _batches(shard, sidecar):
        tokens += int(batch.lengths.sum(dtype=np.int64))
        writer.append(batch)
    if tokens != entry["tokens"]:
        raise InputError(f"{idx_path(prefix)} counts {tokens:,} tokens, {bin_path(prefix)} has {entry['tokens']:,}")
    append_file(bin_path(prefix), writer.tokens_file)
    writer.counts.update({name: entry[name] for name in ("empty_documents", "plain_tokens", "tokens")})


def _batches(shard: IndexedShard, sidecar: ReflectionSidecar | None) -> Iterator[ReflectedBatch]:
    """The shard in blocks, without its tokens, which are copied from file to file."""
    none = np.empty(0, shard.dtype)
    for begin in range(0, len(shard), _BLOCK):
        lengths = shard.lengths[begin : begin + _BLOCK]
        own = Reflections(*NO_CUTS, ReflectionTable())
        counts = np.zeros(len(lengths), np.int32)
        if sidecar:
            own = sidecar.reflections(begin, begin + len(lengths))
            counts = sidecar.counts(begin, begin + len(lengths)).astype(np.int32)
        yield ReflectedBatch(
            tokens=none,
            lengths=lengths,
            plain_tokens=0,
            cuts=own.cuts,
            entries=own.entries,
            counts=counts,
            table=own.table,
            empty=0,
            hints=own.hints,
        )


def _sidecar_info(part: Part) -> dict[str, Any]:
    """The `info` of a run's sidecars: its settings."""
    if not is_treated(part.manifest):
        return {}
    return ReflectionSidecar.load(sidecar_path(part.prefix.with_name(part.manifest["shards"][0]["name"]))).info


def _tokenizer(part: Part, target: Path, folder: Path, moves: dict[Path, Path]) -> dict[str, Any]:
    """The manifest's `tokenizer`; one that was extended for the shards, and is stored with them, is copied."""
    described = part.manifest["tokenizer"]
    beside, model = part.prefix.with_name(f"{part.prefix.name}_tokenizer"), Path(described["model"])
    if beside.name not in model.parts:
        return described
    copied = target.with_name(f"{target.name}_tokenizer")
    shutil.copytree(beside, folder / "tokenizer", dirs_exist_ok=True)
    moves[Path("tokenizer")] = Path(copied.name)
    inside = model.parts[model.parts.index(beside.name) + 1 :]
    return described | {"model": str(copied.joinpath(*inside).resolve())}


def _manifest(parts: Sequence[Part], writers: dict[str, ShardWriter], tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a single run over all inputs, and `merged`: where its shards come from."""
    first = parts[0].manifest
    shards = [
        {"name": writer.name, "key": key, "dtype": str(writer.dtype)} | dict(writer.counts) | writer.verdict_counts()
        for key, writer in writers.items()
    ]
    inputs = join_rows([source for part in parts for source in part.manifest.get("inputs", [])])
    settings = {name: value for name, value in first["settings"].items() if name != "partition"}
    settled = sum((Counter(part.manifest.get("settled", {})) for part in parts), Counter())
    return {
        **first,
        "shards": shards,
        "counts": sum_counts(shards),
        "tokenizer": tokenizer,
        "settings": settings | ({"inputs": inputs} if "inputs" in settings else {}),
        "software": software_versions(),
        "inputs": inputs,
        "skipped_rows": sum(part.manifest.get("skipped_rows", 0) for part in parts),
        **({"settled": dict(sorted(settled.items()))} if settled else {}),
        "merged": [{"prefix": part.prefix.name, "software": part.manifest["software"]} for part in parts],
    }
