"""The input file and the row of a document in a shard, where the manifest of the shard determines them.

A manifest names the input files and counts documents, empty documents and skipped rows. With one file and none of the
latter two, documents and rows are numbered alike; otherwise the place of a document is not known exactly.
"""

from functools import cache

from megatron_srp.data.shards.data_path import is_sidecar, plain_prefix
from megatron_srp.data.shards.manifest import find_manifest


def source_row(data_path: str, sequence: int) -> tuple[str, int] | None:
    """The name of the input file and the row, counted from 1, of a document; None where they are not known.

    Args:
        data_path: of a run: the path prefix of a shard, or a sidecar.
        sequence: the document's number in its shard.

    Raises:
        InputError: for a damaged manifest.
    """
    found = _only_file(plain_prefix(data_path) if is_sidecar(data_path) else data_path)
    return None if found is None else (found[0], found[1] + sequence + 1)


@cache
def _only_file(shard: str) -> tuple[str, int] | None:
    """The input file of a shard, each of whose rows is a document, and the first row read of it."""
    if (manifest := find_manifest(shard)) is None:
        return None
    inputs = manifest.get("inputs") or []
    own = next(entry for entry in manifest["shards"] if shard.endswith(entry["name"]))
    every_row = manifest.get("skipped_rows") == 0 and own.get("empty_documents") == 0
    only = len(inputs) == 1 and every_row
    return (inputs[0]["file"], inputs[0].get("rows", [0])[0]) if only else None
