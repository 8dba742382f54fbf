"""A sidecar in the making, of a shard that stays as it is."""

from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.data.reflect import ReflectedBatch
from megatron_srp.data.shards.shard_writer import ShardWriter


class SidecarWriter(ShardWriter):
    """Writes what ShardWriter does but for the tokens and their index."""

    streams = ("cuts", "entries", "counts")

    def append(self, batch: ReflectedBatch) -> None:
        super().append(batch)
        sizes = np.diff(batch.table.arrays()[1])
        self.counts["tokens"] += batch.plain_tokens + int(sizes[batch.entries].sum())

    def finish(self, info: dict[str, Any], reflected: bool = True) -> dict[Path, Path]:
        self.commit()
        self.close()
        return self._finish_sidecar(info, materialized=False)
