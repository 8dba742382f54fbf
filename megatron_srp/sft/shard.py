"""A shard of conversations, read by memory map: token ids, and which of them are learned."""

from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.manifest import find_manifest
from megatron_srp.errors import InputError


def mask_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}.mask")


def find_sft_manifest(prefix: str | Path) -> dict[str, Any] | None:
    """The manifest of the shard `prefix`, None if that is not a shard of conversations."""
    manifest = find_manifest(prefix)
    return manifest if manifest and manifest.get("sft") else None


class SftShard:
    """The shard `prefix`.

    Attributes:
        tokens: its `IndexedShard`.
        mask: uint8, one for each token of the .bin.

    Raises:
        InputError: when a file is missing, or the mask is not as long as the tokens.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = prefix
        self.tokens = IndexedShard(prefix)
        path = mask_path(prefix)
        if not path.is_file():
            raise InputError(f"{path}: no such file; {prefix} is not a shard of conversations, see `srp sft`")
        if path.stat().st_size != len(self.tokens.tokens):
            raise InputError(
                f"{path}: {path.stat().st_size} bytes for {len(self.tokens.tokens)} tokens; truncated, or not its own"
            )
        self.mask = np.memmap(path, np.uint8, "r")

    def __reduce__(self) -> tuple[type["SftShard"], tuple[str | Path]]:
        return SftShard, (self.prefix,)  # a worker process maps the files again

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask uint8, both [K], of conversation `i`."""
        ids = self.tokens[i]
        begin = int(self.tokens.pointers[i]) // self.tokens.dtype.itemsize
        return ids, self.mask[begin : begin + len(ids)]
