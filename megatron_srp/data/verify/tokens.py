"""Checks that the tokens of a .bin are in the vocabulary, and its reflections where the sidecar says."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_srp.data.reflection_table import HINTED
from megatron_srp.data.shards.indexed_shard import Index, bin_path, sequence_blocks
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.verify.findings import Findings
from megatron_srp.data.verify.sidecar import sidecar_form, sidecar_policy


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known about a shard's tokens.

    Attributes:
        vocab_size: None where it is not known; then ids are only checked not to be negative.
        eod_id: the token that ends every sequence; None where there is none, or it is not known.
        sidecar: of the reflections in the shard; None where there are no reflections, or it is damaged.
    """

    vocab_size: int | None
    eod_id: int | None
    sidecar: ReflectionSidecar | None


def verify_tokens(prefix: Path, index: Index, expected: Expected, findings: Findings) -> None:
    """Read all tokens of a shard whose index is sound, a few million at a time."""
    path = bin_path(prefix)
    with path.open("rb") as file:  # in order and once, so mapping gains nothing
        for begin, end in sequence_blocks(index.lengths):
            lengths = index.lengths[begin:end].astype(np.int64)
            tokens = np.fromfile(file, index.dtype, int(lengths.sum()))
            _verify_range(path, begin, tokens, lengths, expected, findings)
            if expected.sidecar and len(expected.sidecar.table):
                _verify_reflections(path, begin, tokens, lengths, expected.sidecar, findings)


def _verify_range(
    path: Path, begin: int, tokens: np.ndarray, lengths: np.ndarray, expected: Expected, findings: Findings
) -> None:
    ends = np.cumsum(lengths)
    if not len(tokens):
        return
    if tokens.min() < 0 or (expected.vocab_size is not None and tokens.max() >= expected.vocab_size):
        wrong = tokens < 0
        if expected.vocab_size is not None:
            wrong |= tokens >= expected.vocab_size
        at = np.flatnonzero(wrong)
        rows, once = np.unique(np.searchsorted(ends, at, "right"), return_index=True)
        limit = "" if expected.vocab_size is None else f", beyond the vocabulary of {expected.vocab_size:,}"
        problems = (f"has the token {tokens[at[i]]}{limit}" for i in once)
        findings.add_sequences(path, "tokens", begin + rows, problems)
    if expected.eod_id is not None:
        rows = np.flatnonzero((tokens[ends - 1] != expected.eod_id) & (lengths > 0))
        problems = (f"ends with {tokens[ends[i] - 1]}, not end-of-document, {expected.eod_id}" for i in rows)
        findings.add_sequences(path, "ends", begin + rows, problems)


def _verify_reflections(
    path: Path, begin: int, tokens: np.ndarray, lengths: np.ndarray, sidecar: ReflectionSidecar, findings: Findings
) -> None:
    offsets = sidecar.offsets[begin : begin + len(lengths) + 1]
    own, counts = sidecar.reflections(begin, begin + len(lengths)), np.diff(offsets)
    entries, sizes = own.entries, own.sizes()
    inside, (_, _, ends) = own.places(lengths, counts), own.spans(lengths, counts)
    wrong = tokens[inside] != own.ids()
    if wrong.any():
        broken = np.unique(np.repeat(np.arange(len(sizes)), sizes)[wrong])
        rows, once = np.unique(np.searchsorted(offsets, broken + offsets[0], "right") - 1, return_index=True)
        form = sidecar_form(sidecar)
        problems = (
            f"does not hold {form.render(sidecar.table.entries[entries[i]].label)}"
            f"{', with its hint,' if sidecar.table.entries[entries[i]].hinted else ''} "
            f"after {own.cuts[i]} tokens of text, where the sidecar says it is"
            for i in broken[once]
        )
        findings.add_sequences(path, "reflections", begin + rows, problems)
    _verify_stops(path, begin, tokens, ends, entries, np.repeat(np.arange(len(counts)), counts), sidecar, findings)
    if sidecar_form(sidecar).special_tokens:
        _verify_special(path, begin, tokens, lengths, inside, sidecar, findings)


def _verify_stops(
    path: Path,
    begin: int,
    tokens: np.ndarray,
    behind: np.ndarray,
    entries: np.ndarray,
    rows: np.ndarray,
    sidecar: ReflectionSidecar,
    findings: Findings,
) -> None:
    """Check that a reflection that needs an end-of-text but has none of its own is followed by the document's."""
    form, table = sidecar_form(sidecar), sidecar.table.entries
    eos = [entry.ids[-1] for entry in table if entry.stop and entry.ids]
    policy = sidecar_policy(sidecar)
    reflects = [policy.rule(entry.label.verdict).reflect and not entry.inside for entry in table]
    if policy.by == "document":  # another segment's verdict may have decided
        return
    stops = [form.stops(entry.label) and not entry.stop for entry in table]
    needs = (np.array(stops, bool) & np.array(reflects, bool))[entries]
    if not eos or not needs.any():
        return
    at = np.flatnonzero(needs & (np.append(tokens, -1)[np.minimum(behind, len(tokens))] != eos[0]))
    problems = (f"has {form.render(table[entries[i]].label)} without an end-of-text after it" for i in at)
    findings.add_sequences(path, "stops", begin + rows[at], problems)


def _verify_special(
    path: Path,
    begin: int,
    tokens: np.ndarray,
    lengths: np.ndarray,
    inside: np.ndarray,
    sidecar: ReflectionSidecar,
    findings: Findings,
) -> None:
    """Check that tokens made for reflections appear nowhere else: a text that says <think> has other ids."""
    entry = next((entry for entry in sidecar.table.entries if entry.ids), HINTED)
    ids = entry.ids[:-1] if entry.stop else entry.ids
    if sidecar_policy(sidecar).reflects:
        made = [ids[0], ids[-1]] if ids else []
    else:  # nothing else is written
        made = [i for entry in sidecar.table.entries for i in (*entry.before, *entry.ids)]
    marks = np.isin(tokens, made)
    marks[inside] = False
    at = np.flatnonzero(marks)
    rows, once = np.unique(np.searchsorted(np.cumsum(lengths), at, "right"), return_index=True)
    problems = (f"has the token {tokens[at[i]]}, made for reflections, in its text" for i in once)
    findings.add_sequences(path, "stray marks", begin + rows, problems)
