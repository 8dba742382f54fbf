"""Checks that a sidecar is consistent and fits its shard's lengths, and that its ids encode its reflections."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megatron_srp.data.policies.policy import Policy
from megatron_srp.data.policies.treat import PieceEncoder
from megatron_srp.data.reflection_table import Entry
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.verify.findings import Findings
from megatron_srp.errors import InputError, UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.tokenization import TextTokenizer

_BLOCK = 1 << 20  # sequences at a time


def load_sidecar(path: Path, findings: Findings) -> ReflectionSidecar | None:
    """The sidecar, or None where it cannot be read."""
    try:
        sidecar = ReflectionSidecar.load(path)
        sidecar_policy(sidecar)
    except InputError as error:
        findings.add(path, str(error).removeprefix(f"{path}: "))
        return None
    return sidecar


def verify_places(
    path: Path, sidecar: ReflectionSidecar, lengths: np.ndarray | None, quick: bool, findings: Findings
) -> bool:
    """Check where the reflections are, in blocks of sequences.

    Args:
        lengths: int32[N] of the shard's sequences; None where the shard is elsewhere.
        quick: skip the fingerprint of the sidecar's content.

    Returns:
        Whether reflections can be told from text.
    """
    before = len(findings)
    if lengths is not None and len(sidecar) != len(lengths):
        findings.add(path, f"it is for {len(sidecar):,} sequences, but the shard has {len(lengths):,}")
    elif sidecar.offsets[0] != 0 or sidecar.offsets[-1] != len(sidecar.cuts):
        findings.add(path, f"its rows do not cover its {len(sidecar.cuts):,} reflections")
    else:
        for begin in range(0, len(sidecar), _BLOCK):
            _verify_rows(path, sidecar, lengths, begin, findings)
    if not quick and len(findings) == before and sidecar.fingerprint != sidecar.recorded_fingerprint:
        findings.add(path, "its content does not match its fingerprint")
    return len(findings) == before


def sidecar_policy(sidecar: ReflectionSidecar) -> Policy:
    """The policy by which it was made; raises InputError where its `info` has no valid one."""
    try:
        return Policy.from_settings(sidecar.info)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise InputError(f"its reflections have an unknown form ({error})") from None


def sidecar_form(sidecar: ReflectionSidecar) -> ReflectionFormat:
    """The form in which its reflections are written."""
    return sidecar_policy(sidecar).form


def _verify_rows(
    path: Path,
    sidecar: ReflectionSidecar,
    lengths: np.ndarray | None,
    begin: int,
    findings: Findings,
) -> None:
    """Check the reflections of the block of sequences from `begin` on."""
    offsets = sidecar.offsets[begin : begin + _BLOCK + 1]
    counts, table = np.diff(offsets), sidecar.table.entries
    wrong = np.flatnonzero((counts < 0) | (offsets[:-1] < 0) | (offsets[1:] > len(sidecar.cuts)))
    findings.add_sequences(path, "rows", begin + wrong, (f"has {counts[i]} reflections" for i in wrong))
    if len(wrong):
        return
    own = sidecar.reflections(begin, begin + len(counts))
    cuts, entries = own.cuts.astype(np.int64), own.entries
    rows = np.repeat(np.arange(len(counts)), counts)

    def report(kind: str, wrong: np.ndarray, text: str) -> None:
        at = np.flatnonzero(wrong)
        problems = (f"has the reflection {entries[i]} at token {cuts[i]}{text}" for i in at)
        findings.add_sequences(path, kind, begin + rows[at], problems)

    unknown = entries >= len(table)
    report("entries", unknown, f", but the table has {len(table)}")
    same = rows[1:] == rows[:-1]
    none = np.zeros(min(len(cuts), 1), bool)
    report("order", np.append(same & (cuts[1:] < cuts[:-1]), none), ", before an earlier one")
    report("places", cuts < 0, "")
    if unknown.any():
        return
    wrong_hints = own.with_wrong_hints()
    report("hints", wrong_hints, ", with the ids of a hint where there is no hint, or without where there is one")
    if lengths is None or wrong_hints.any():
        return
    plain = lengths[begin : begin + _BLOCK].astype(np.int64)
    if sidecar.materialized:
        added = own.sizes() - own.dropped(counts)
        plain -= np.bincount(rows, weights=added, minlength=len(plain)).astype(np.int64)
    report("places", cuts > plain[rows], ", after its end")
    last = np.append(~same, ~none)
    report("ends", last & (cuts < plain[rows] - 1), " as its last one, but continues")  # with more than an end-of-text


def verify_table(
    path: Path, sidecar: ReflectionSidecar, vocab_size: int | None, tokenizer: TextTokenizer | None, findings: Findings
) -> None:
    """Check that each reflection of the table is what the form writes, and that its ids decode to it.

    Args:
        vocab_size: of the tokenizer that encoded the reflections; None where it is not known.
        tokenizer: that one, or None where it is not available.
    """
    policy = sidecar_policy(sidecar)
    problems = [
        f"reflection {number} of its table, {policy.form.render(entry.label)}, {problem}"
        for number, entry in enumerate(sidecar.table.entries)
        for problem in _problems(entry, policy, vocab_size, tokenizer)
    ]
    findings.add_each(path, "reflections in its table", len(problems), problems)


def _policy_problems(
    entry: Entry, policy: Policy, vocab_size: int | None, tokenizer: TextTokenizer | None
) -> Iterator[str]:
    if vocab_size is not None and max((*entry.before, *entry.ids), default=0) >= vocab_size:
        yield f"has ids beyond the vocabulary of {vocab_size:,}"
    elif tokenizer and entry not in PieceEncoder(policy, tokenizer).possible(entry.label):
        yield f"is nothing that the policy {policy.name} does"


def _problems(entry: Entry, policy: Policy, vocab_size: int | None, tokenizer: TextTokenizer | None) -> Iterator[str]:
    form = policy.form
    if not policy.is_srp:
        yield from _policy_problems(entry, policy, vocab_size, tokenizer)
        return
    if entry.label != form.resolve(entry.label):
        yield f"is not written so with controversial={form.controversial}"
    if entry.stop and not form.stops(entry.label):
        yield "ends with an end-of-text that its verdict does not call for"
    if entry.hinted and not form.hints:
        yield "stands for hints, which the form does not have"
    if entry.hinted:
        return
    if not entry.ids:
        yield "has no ids"
    elif vocab_size is not None and max(entry.ids) >= vocab_size:
        yield f"has ids beyond the vocabulary of {vocab_size:,}"
    elif tokenizer and entry.ids != (wanted := tuple(form.encode(entry.label, tokenizer, entry.stop))):
        text = tokenizer.decode(list(entry.ids))
        yield f"has the ids of {text!r}" if len(text) < 200 else f"has other ids than its {len(wanted)}"
