"""A verdict changed by hand.

A change is recorded in the store, with its author and time, before the verdict is replaced: no verdict differs from
the guard's without a record.
"""

import getpass
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_srp.annotation.store.browse import Corpus, shown
from megatron_srp.annotation.store.part import FAILED, Part, PartSummary, read_part, write_part, write_table
from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.annotation.store.writers import WriterLock
from megatron_srp.corpus.partitions import Partition
from megatron_srp.errors import UsageError
from megatron_srp.schema import SafetyLabel


def set_verdict(
    corpus: Corpus, row: int, segment: int, label: SafetyLabel, reason: str = "", who: str | None = None
) -> dict[str, Any]:
    """Change a verdict, and record that it was changed. Returns the record.

    Args:
        row, segment: from 0.
        who: the author; by default the name of the system user.

    Raises:
        UsageError: when the store has no such segment, it has that verdict already, or a run is writing to the store.
        OutputError: when the store cannot be written to; then the old verdict remains.
    """
    store = corpus.store
    with WriterLock(store.folder, [corpus.fingerprint], corpus.key, Partition()):
        store = AnnotationStore(store.folder)  # another edit may have been recorded in the meantime
        summary, part, at = _locate(corpus, row, segment)
        changed = _with_label(part, at, label)
        before = None if part.codes[at] == FAILED else part.labels[part.codes[at]]
        if before == label:
            raise UsageError(f"{corpus.name}, row {row + 1}, segment {segment + 1} is {shown(label)} already")
        edit = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "who": who or getpass.getuser(),
            "key": corpus.key,
            "fingerprint": corpus.fingerprint,
            "file": corpus.file.name if corpus.file else None,
            "row": row,
            "segment": segment,
            "before": shown(before) if before else None,
            "after": shown(label),
            "reason": reason,
        }
        if not _is_last(store, edit):  # a try that failed after it was recorded is not recorded twice
            store.record(edit)
        _drop_hints(store, summary, changed)
        write_part(summary.path, changed)
    return edit


def _is_last(store: AnnotationStore, edit: dict[str, Any]) -> bool:
    return bool(store.edits) and store.edits[-1] | {"when": ""} == edit | {"when": ""}


def _locate(corpus: Corpus, row: int, segment: int) -> tuple[PartSummary, Part, int]:
    """The part that holds a segment, and the segment's number there."""
    for summary in corpus.store.summaries(corpus.key, corpus.fingerprint):
        if summary.first <= row < summary.end:
            part = read_part(summary.path)
            document = int(np.searchsorted(part.rows, row))
            if document < len(part.rows) and part.rows[document] == row:
                first, stop = part.offsets[document : document + 2].tolist()
                if 0 <= segment < stop - first:
                    return summary, part, first + segment
                raise UsageError(f"{corpus.name}, row {row + 1} has {stop - first} segments, and no {segment + 1}")
    raise UsageError(f"{corpus.name}: {corpus.store.folder} has no verdicts for row {row + 1}")


def _with_label(part: Part, segment: int, label: SafetyLabel) -> Part:
    """`part` with another label for one segment, which loses its score and failure, as they were the guard's."""
    labels = list(dict.fromkeys([*part.labels, label]))
    codes, scores = part.codes.copy(), part.scores.copy()
    codes[segment], scores[segment] = labels.index(label), np.nan
    failures = {i: why for i, why in part.failures.items() if i != segment}
    settling = part.settling and part.settling.with_changed(np.array([segment]), None)
    return replace(part, codes=codes, labels=labels, scores=scores, failures=failures, settling=settling)


def _drop_hints(store: AnnotationStore, summary: PartSummary, part: Part) -> None:
    """Remove the hints that belong to, or lead to, a segment that is no longer Safe."""
    path = store.folder / "hints" / summary.path.relative_to(store.folder)
    if not path.exists():
        return
    from megatron_srp.annotation.store.hints import hintable  # which imports an HTTP client

    table = pq.read_table(path).combine_chunks()
    hints = table.column("hints").combine_chunks()
    kept = pa.array(hints.values.to_pylist(), pa.string(), mask=~hintable(part))
    lists = pa.ListArray.from_arrays(hints.offsets, kept)
    write_table(path, table.set_column(table.schema.get_field_index("hints"), "hints", lists))


def describe_edit(edit: dict[str, Any]) -> str:
    """A record of `AnnotationStore.edits` in one line; rows and segments are counted from 1."""
    where = f"{edit['file'] or edit['fingerprint']}, row {edit['row'] + 1}, segment {edit['segment'] + 1}"
    reason = f" ({edit['reason']})" if edit["reason"] else ""
    return f"{edit['when']} {edit['who']}: {where}: {edit['before'] or 'no verdict'} -> {edit['after']}{reason}"
