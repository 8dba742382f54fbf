"""The input file and the row of a document in a shard, where the manifest of the shard determines them.

A manifest lists the input files in the order of their documents, with the rows of each, and counts empty documents and
skipped rows. Without any of the latter every row is a document; otherwise the place of a document is not known exactly.
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
    files = _files(plain_prefix(data_path) if is_sidecar(data_path) else data_path)
    for file, start, count in files:
        if sequence < count:
            return file, start + sequence + 1
        sequence -= count
    return None


@cache
def _files(shard: str) -> list[tuple[str, int, int]]:
    """Name, first row and number of rows of a shard's input files, if each of the rows is a document; else none."""
    if (manifest := find_manifest(shard)) is None:
        return []
    inputs = manifest.get("inputs") or []
    own = next(entry for entry in manifest["shards"] if shard.endswith(entry["name"]))
    files = [(entry["file"], entry.get("rows", [0])[0], entry.get("num_rows", 0)) for entry in inputs]
    every_row = manifest.get("skipped_rows") == 0 and own.get("empty_documents") == 0
    return files if every_row and sum(count for *_, count in files) == own["documents"] else []
