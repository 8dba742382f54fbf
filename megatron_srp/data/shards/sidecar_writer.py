"""An unfinished sidecar, for a shard that does not change."""

from pathlib import Path
from typing import Any

from megatron_srp.data.reflect import ReflectedBatch
from megatron_srp.data.shards.shard_writer import ShardWriter


class SidecarWriter(ShardWriter):
    """Writes what ShardWriter does, except the tokens and their index."""

    STREAMS = ("cuts", "entries", "counts")

    def append(self, batch: ReflectedBatch) -> None:
        super().append(batch)
        own = batch.reflections
        self.counts["tokens"] += batch.plain_tokens + int((own.sizes() - own.dropped(batch.counts)).sum())

    def finish(self, info: dict[str, Any], reflected: bool = True) -> dict[Path, Path]:
        self.commit()
        self.close()
        return self._finish_sidecar(info, materialized=False)
