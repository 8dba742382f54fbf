"""Checks that an .idx is consistent, and that the .bin next to it has the bytes it describes."""

from pathlib import Path

import numpy as np

from megatron_srp.data.shards.indexed_shard import TYPE_CODES, Index, bin_path, idx_path, read_index
from megatron_srp.data.verify.findings import Findings
from megatron_srp.errors import InputError

_BLOCK = 1 << 20  # sequences at a time


def verify_index(prefix: Path, findings: Findings, least: int = 1) -> Index | None:
    """Check header, lengths, offsets and documents of a shard, in blocks.

    Args:
        least: tokens that every sequence has; 0 where a policy may have left nothing of one.

    Returns:
        The index, or None where it or the .bin is damaged, so that sequences cannot be located.
    """
    missing = [path for path in (bin_path(prefix), idx_path(prefix)) if not path.is_file()]
    for path in missing:
        findings.add(path, "no such file")
    before = len(findings)
    try:
        index = read_index(idx_path(prefix)) if not missing else None
    except InputError as error:
        findings.add(idx_path(prefix), str(error).removeprefix(f"{idx_path(prefix)}: "))
        index = None
    if index is None:
        return None
    size = bin_path(prefix).stat().st_size
    if other := _other_size(index, size):
        findings.add(
            idx_path(prefix), f"its type code says {index.dtype}, but its offsets are those of tokens of {other} bytes"
        )
        return None
    _verify_places(prefix, index, size, least, findings)
    _verify_documents(idx_path(prefix), index, findings)
    return index if len(findings) == before else None


def _other_size(index: Index, size: int) -> int | None:
    """Bytes per token implied by the first offsets, where the type code implies another size."""
    if not len(index.lengths):
        return None
    first, second = int(index.lengths[0]), int(index.pointers[1]) if len(index.pointers) > 1 else size
    fits = {dtype.itemsize for dtype in TYPE_CODES if first > 0 and first * dtype.itemsize == second}
    return fits.pop() if fits and index.dtype.itemsize not in fits else None


def _verify_places(prefix: Path, index: Index, size: int, least: int, findings: Findings) -> None:
    """Check that sequences are back to back, from the first byte of the .bin to its last."""
    n, end, explained = len(index.lengths), 0, False
    for i in range(0, n, _BLOCK):
        lengths = index.lengths[i : i + _BLOCK].astype(np.int64)
        # Offsets are checked against the end of the sequence before, so that one damaged number is one finding.
        starts = np.append(index.pointers[i : i + _BLOCK], index.pointers[i + _BLOCK] if i + _BLOCK < n else size)
        ends = starts[:-1] + lengths * index.dtype.itemsize
        gaps = starts - np.concatenate([[end], ends])
        gaps[0] = 0 if explained else gaps[0]
        explained = _verify_block(prefix, i, size, lengths, starts, ends, gaps, least, findings)
        end = int(ends[-1])
    if end < size and not explained and n:
        findings.add(bin_path(prefix), f"{size - end:,} bytes after the end of the last sequence, {n - 1}")
    elif not n and size:
        findings.add(bin_path(prefix), f"{size:,} bytes, but its index has no sequence")


def _verify_block(
    prefix: Path,
    first: int,
    size: int,
    lengths: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    gaps: np.ndarray,
    least: int,
    findings: Findings,
) -> bool:
    """Check sequences from `first` on.

    Args:
        lengths, ends: int64[K], tokens of each and the byte after it.
        starts: int64[K+1], the byte where each begins, and last where the next should begin.
        gaps: int64[K+1], bytes between each start and the end of the sequence before.

    Returns:
        Whether the last gap is due to the last sequence's own offset, and so is reported already.
    """
    path, name = idx_path(prefix), bin_path(prefix).name
    own = gaps[:-1] != 0
    moved = own & (gaps[1:] == -gaps[:-1])  # only this offset is wrong; its neighbours fit together
    empty = np.flatnonzero(lengths < least)
    findings.add_sequences(path, "lengths", first + empty, (_length(int(lengths[i])) for i in empty))
    outside = (starts[:-1] < 0) | (ends > size) | (ends < starts[:-1])
    rows = np.flatnonzero(outside & (lengths > 0))
    problems = (
        f"is said to have bytes {starts[i]} to {ends[i]} of {name}, which has {size}"
        + ("; written with 32-bit offsets?" if starts[i] < 0 else "; is it cut short?")
        for i in rows
    )
    findings.add_sequences(path, "bytes", first + rows, problems)
    after_moved = np.concatenate([[False], moved[:-1]])
    rows = np.flatnonzero(own & ~outside & ~after_moved)
    problems = (f"begins at byte {starts[i]}, but sequence {first + i - 1} ends at {starts[i] - gaps[i]}" for i in rows)
    findings.add_sequences(path, "offsets", first + rows, problems)
    return bool(moved[-1])


def _length(tokens: int) -> str:
    return "has no tokens" if tokens == 0 else f"has {tokens} tokens: a length beyond 32 bits?"


def _verify_documents(path: Path, index: Index, findings: Findings) -> None:
    n, documents = len(index.lengths), index.documents
    if not len(documents) or documents[0] != 0 or documents[-1] != n:
        found = f"{documents[0]} to {documents[-1]}" if len(documents) else "empty"
        findings.add(path, f"its document index is {found}, not from 0 to {n}")
        return
    for i in range(0, len(documents) - 1, _BLOCK):
        own = documents[i : i + _BLOCK + 1]
        if len(documents) == n + 1:  # that many different ascending numbers must be 0, 1, 2, ...
            wrong = np.flatnonzero(own[:-1] != np.arange(i, i + len(own) - 1))
            sequences = i + wrong
            problems = (f"begins document {i + k}, but the document index says {own[k]}" for k in wrong)
        else:
            wrong = np.flatnonzero(np.diff(own) < 1)
            sequences = own[wrong + 1]
            problems = (f"begins document {i + k + 1}, but document {i + k} begins at {own[k]}" for k in wrong)
        findings.add_sequences(path, "document boundaries", sequences, problems)
