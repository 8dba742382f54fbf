"""Where the members of an ensemble disagree: one Parquet file per part of the store.

    STORE/disagreements/KEY/FINGERPRINT/000000000000.parquet

A row is a segment: its row in the input file, its character offsets there, the ensemble's verdict, and
each member's, as columns `MEMBER` (its verdict; null where it had none) and `MEMBER score`.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from megatron_srp.annotation.base import Guard
from megatron_srp.annotation.classify_segments import SegmentVerdicts
from megatron_srp.annotation.store.part import FAILED, Part, write_table

FOLDER = "disagreements"


def write_disagreements(
    store: Path,
    key: str,
    fingerprint: str,
    first_row: int,
    guard: Guard,
    classified: Sequence[tuple[Part, SegmentVerdicts]],
) -> None:
    """Write the chunk's file atomically; a guard without members has no file."""
    members: Sequence[str] = getattr(guard, "members", ())
    if not members:
        return
    columns: dict[str, list] = {name: [] for name in ("row", "start", "end", "verdict")}
    columns |= {name: [] for member in members for name in (member, f"{member} score")}
    for part, verdicts in classified:
        for segment, votes in verdicts.votes.items():
            document, within = part.document_of(segment)
            code = int(part.codes[segment])
            columns["row"].append(int(part.rows[document]))
            columns["start"].append(int(part.ends[segment - 1]) if within else 0)
            columns["end"].append(int(part.ends[segment]))
            columns["verdict"].append(None if code == FAILED else str(part.labels[code].verdict))
            for member, vote in zip(members, votes, strict=True):
                columns[member].append(None if vote.failure else str(vote.label.verdict))
                columns[f"{member} score"].append(None if vote.score != vote.score else vote.score)
    kinds = dict.fromkeys(columns, pa.string()) | dict.fromkeys(("row", "start", "end"), pa.int64())
    kinds |= {f"{member} score": pa.float32() for member in members}
    table = pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})
    write_table(store / FOLDER / key / fingerprint / f"{first_row:012d}.parquet", table)
