"""reflected = interleave(tokens, cuts, reflections): the central operation of the data plane.

The builder writes its result, the view computes it when a sample is read, and `strip` inverts it.
"""

from collections.abc import Sequence

import numpy as np

from megatron_srp.data import _tokens
from megatron_srp.data.reflection_table import Entry, HintIds, Reflections, ReflectionTable
from megatron_srp.schema import SAFE
from megatron_srp.tokenization import TokenBatch


def interleave_document(
    tokens: Sequence[int], cuts: Sequence[int], reflections: Sequence[Sequence[int]], eod: int | None = None
) -> list[int]:
    """The definition: `reflections[k]` inserted before `tokens[cuts[k]]`, and `eod` at the end."""
    entries = [Entry(SAFE, False, tuple(reflection)) for reflection in reflections]
    return [*treat_document(tokens, cuts, entries)[0], *([] if eod is None else [eod])]


def treat_document(
    tokens: Sequence[int], cuts: Sequence[int], entries: Sequence[Entry]
) -> tuple[list[int], list[bool]]:
    """The definition for any policy: the tokens that are read, and which of them are learned."""
    out: list[tuple[int, bool]] = []
    begin = 0
    for cut, entry in zip(cuts, entries, strict=True):
        text = [] if entry.text == "drop" else tokens[begin:cut]
        out += [(token, entry.learned) for token in entry.before]
        out += [(token, entry.text != "mask") for token in text]
        out += [(token, entry.learned) for token in entry.ids]
        begin = cut
    out += [(token, True) for token in tokens[begin:]]
    return [token for token, _ in out], [learned for _, learned in out]


def interleave_batch(
    tokens: TokenBatch,
    cuts: np.ndarray,
    entries: np.ndarray,
    segment_offsets: np.ndarray,
    table: ReflectionTable,
    eod: int | None,
    dtype: np.dtype,
    hints: HintIds | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`interleave_document` for N documents.

    Args:
        tokens: N documents, uint16 or uint32.
        cuts: int32[S], ascending within each document.
        entries: uint16[S], indices into `table`.
        segment_offsets: int64[N+1], which cuts belong to which document.
        table: the reflections.
        eod: appended to each document unless None.
        dtype: of the result, uint16 or int32.
        hints: of the S reflections, where the form has hints.

    Returns:
        The documents' tokens, concatenated, and their lengths int32[N].

    Raises:
        ValueError: when the arrays do not fit together.
    """
    (flat, offsets), flags = table.arrays(), table.flags()
    entries = entries.astype(np.int32)
    if hints:  # every reflection is a separate entry
        reflections = Reflections(cuts, entries, table, hints)
        flat, sizes, before = reflections.ids(), reflections.sizes(), reflections.sizes_before()
        flags = flags[entries] if len(flags) else flags
        offsets = np.concatenate([[0], np.cumsum(np.stack([before, sizes - before], axis=1).ravel())])
        entries = np.arange(len(entries), dtype=np.int32)
    added = np.diff(offsets[::2])[entries].sum(dtype=np.int64) if len(entries) else 0
    out = np.empty(int(tokens.offsets[-1] + added) + len(tokens) * (eod is not None), dtype)
    lengths = np.empty(len(tokens), np.int32)
    eod_id = -1 if eod is None else eod
    written = _tokens.interleave(
        tokens.tokens,
        tokens.offsets,
        cuts,
        entries,
        segment_offsets,
        flat,
        offsets,
        flags,
        eod_id,
        out.dtype.itemsize,
        out,
        lengths,
    )
    return out[:written], lengths


def strip_document(tokens: np.ndarray, cuts: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """The inverse: `tokens` without the reflections of `sizes[k]` tokens that were inserted at `cuts[k]`."""
    keep = np.ones(len(tokens), bool)
    shift = 0
    for cut, size in zip(cuts, sizes, strict=True):
        keep[cut + shift : cut + shift + size] = False
        shift += size
    return tokens[keep]
