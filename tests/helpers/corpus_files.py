"""A small corpus, as a file of any format that is read."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.conftest import random_texts

TEXTS = [*random_texts(11, 300), "", "ünï ½ 😀", "line\nbreak\r\n"]


def write(path, texts=TEXTS):
    """`texts` in the format that the path's name asks for."""
    lines = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path, row_group_size=100)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines))
    elif compress := {".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix):
        half = len(lines) // 2  # two frames, as parallel compressors write them
        path.write_bytes(compress(lines[:half]) + compress(lines[half:]))
    else:
        path.write_bytes(lines)
    return path
