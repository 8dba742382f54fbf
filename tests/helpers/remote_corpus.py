"""The same corpus in a data set of a hub and in a bucket, both on loopback, and here."""

import bz2
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_srp.cli.preprocess import main as preprocess
from tests.conftest import random_texts
from tests.helpers.hub import Hub, running_hub
from tests.helpers.object_store import BUCKET, running_store

NAME = "someone/pages"
TEXTS = random_texts(7, 400, 60)


def jsonl(texts) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def parquet(texts) -> bytes:
    content = io.BytesIO()
    table = pa.table({"url": [f"http://{i}" for i in range(len(texts))], "text": texts})
    pq.write_table(table, content, row_group_size=20, compression="none")
    return content.getvalue()


FILES = {
    "data/CC-A/part-0.parquet": parquet(TEXTS[:100]),
    "data/CC/part-0.parquet": parquet(TEXTS[100:200]),
    "data/CC/part-1.jsonl": jsonl(TEXTS[200:250]),
    "data/CC/part-2.jsonl.gz": gzip.compress(jsonl(TEXTS[250:300])),
    "data/CC/part-3.jsonl.zst": zstandard.compress(jsonl(TEXTS[300:350])),
    "data/CC/part-4.json.bz2": bz2.compress(jsonl(TEXTS[350:])),
    "data/.hidden/x.jsonl": b"not part of the corpus",
    "README.md": b"# pages",
}


@contextmanager
def corpus_on_the_hub() -> Iterator[Hub]:
    """A hub whose data set NAME has the corpus, and which the driver asks."""
    with running_hub() as hub, pytest.MonkeyPatch.context() as patch:
        from huggingface_hub import HfFileSystem, constants

        HfFileSystem.clear_instance_cache()  # drivers of an earlier address
        # The driver reads the address when it is imported.
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HUB_OFFLINE", "0")
        for path, content in FILES.items():
            hub.put(NAME, path, content)
        yield hub


@contextmanager
def corpus_on_s3() -> Iterator[Any]:
    """A client of a store whose BUCKET has the corpus."""
    with running_store() as client:
        for path, content in FILES.items():
            client.put_object(Bucket=BUCKET, Key=path, Body=content)
        yield client


def copy_here(folder):
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def shards(prefix):
    return {suffix: Path(f"{prefix}_text_document.{suffix}").read_bytes() for suffix in ("bin", "idx", "srp")}


def make(source, prefix, flags, *more):
    assert preprocess(["--input", source, *flags, "--guard", "heuristic", "--output-prefix", str(prefix), *more]) == 0
    return shards(prefix), json.loads(prefix.with_name(f"{prefix.name}.srp.json").read_text())
