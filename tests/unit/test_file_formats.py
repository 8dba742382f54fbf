"""The files of docs/reference/files.md, read by hand as that page describes them."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from safetensors.numpy import save_file

from megatron_srp.annotation import load_guard
from megatron_srp.annotation.corpus_job.annotator import Annotator
from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.cli import preprocess, sft
from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.segmentation import segment_text
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import KeywordGuard, random_texts

TEXTS = random_texts(5, 12)


@pytest.fixture
def shards(tmp_path, tokenizer) -> Path:
    """A plain and a reflected shard of the same texts."""
    for name, guard in (("plain", None), ("c", KeywordGuard())):
        builder = ReflectionIndexedDatasetBuilder(tmp_path / name, tokenizer, guard=guard, max_words=8)
        builder.add_documents(TEXTS)
        builder.finalize()
    return tmp_path


def read_shard(prefix: Path) -> list[np.ndarray]:
    """The sequences, by the page's table of the .idx."""
    index = Path(f"{prefix}.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0"
    version, code, n, boundaries = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1 and len(index) == 34 + 4 * n + 8 * n + 8 * boundaries
    lengths = np.frombuffer(index, "<i4", n, 34)
    pointers = np.frombuffer(index, "<i8", n, 34 + 4 * n)
    documents = np.frombuffer(index, "<i8", boundaries, 34 + 12 * n)
    assert documents.tolist() == list(range(n + 1))
    tokens = Path(f"{prefix}.bin").read_bytes()
    dtype = {8: "<u2", 4: "<i4"}[code]
    return [np.frombuffer(tokens, dtype, length, at) for length, at in zip(lengths, pointers, strict=True)]


def read_sidecar(path: Path) -> tuple[list[list[dict[str, int]]], dict[str, Any]]:
    with pa.ipc.open_file(path) as file:
        assert file.num_record_batches == 1 and file.schema.names == ["reflections"]
        return file.get_batch(0).column("reflections").to_pylist(), json.loads(file.schema.metadata[b"srp"])


def interleave(plain: np.ndarray, reflections: list[dict[str, int]], table: list[dict[str, Any]]) -> list[int]:
    out, done = [], 0
    for one in reflections:
        out += [*plain[done : one["cut"]], *table[one["entry"]]["ids"]]
        done = one["cut"]
    return [*out, *plain[done:]]


def test_shard_and_sidecar(shards, tokenizer):
    plain, reflected = read_shard(shards / "plain_text_document"), read_shard(shards / "c_text_document")
    rows, header = read_sidecar(shards / "c_text_document.srp")
    assert header["version"] == 1 and header["materialized"] is True
    made = [interleave(*pair, header["table"]) for pair in zip(plain, rows, strict=True)]
    assert made == [sequence.tolist() for sequence in reflected]
    for entry in header["table"]:
        assert entry["stop"] == (entry["ids"][-1] == tokenizer.eos_id)


def test_manifest(shards):
    manifest = json.loads((shards / "c.srp.json").read_text())
    documented = "format_version shards counts tokenizer reflection settings software files".split()
    assert set(documented) <= manifest.keys() and manifest["format_version"] == 1
    (shard,) = manifest["shards"]
    assert {"name", "key", "dtype", "documents", "empty_documents", "segments", "plain_tokens"} <= shard.keys()
    assert shard["tokens"] == sum(map(len, read_shard(shards / shard["name"])))
    assert manifest["tokenizer"].keys() == {"type", "model", "vocab_size", "eos_id", "eod_token", "fingerprint"}
    for name, seal in manifest["files"].items():
        content = (shards / name).read_bytes()
        assert seal == {"bytes": len(content), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}


def test_mask(tmp_path, tokenizer_models):
    turns = [
        {"role": "user", "content": "Where is the river?"},
        {"role": "assistant", "content": "By the house. Look."},
    ]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    kind, model = tokenizer_models["gpt2"]
    flags = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--seq-length", "256", "--mode", "reflection"]
    flags += ["--guard", "heuristic", "--output-prefix", str(tmp_path / "o")]
    sft.main(["--input", str(tmp_path / "chat.jsonl"), *flags])
    (ids,), mask = read_shard(tmp_path / "o_sft"), np.fromfile(tmp_path / "o_sft.mask", np.uint8)
    manifest = json.loads((tmp_path / "o.srp.json").read_text())["sft"]
    assert len(mask) == len(ids) and manifest["mask"] == "o_sft.mask" and manifest["tokens_learned"] == mask.sum()
    learned = load_tokenizer(kind, model).decode(ids[mask == 1].tolist())
    assert "<think> Safe </think> By the house. Look. <think> Safe </think>" in learned and "Where" not in learned


def test_store(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    content = path.read_bytes()
    edges = xxhash.xxh3_128(content[: 1 << 16])
    edges.update(content[-(1 << 16) :])
    guard = KeywordGuard()
    store = AnnotationStore.create(tmp_path / "store", {**guard.settings, "max_words": 8})
    Annotator(InputFiles([path]), store, guard, 8).run()
    assert json.loads((tmp_path / "store" / "store.json").read_text())["version"] == 2
    part = tmp_path / "store" / "text" / f"{len(content)}-{edges.hexdigest()}" / "000000000000.parquet"
    table = pq.read_table(part)
    assert table.schema.metadata[b"end"] == str(len(TEXTS)).encode() and table.schema.metadata[b"last"] == b"1"
    for row, text in zip(table.to_pylist(), TEXTS, strict=True):
        assert row["text_hash"] == xxhash.xxh3_64_intdigest(text.encode())
        segments = segment_text(text, 8)
        assert row["ends"] == [segment.end for segment in segments]
        labels = guard.classify([text[segment.start : segment.end] for segment in segments])
        assert row["verdicts"] == [str(label.verdict) for label in labels]
        assert row["categories"] == [", ".join(label.categories) for label in labels]
        assert not any(row["failures"])


def test_a_cascades_part_and_a_front(tmp_path):
    front = {"version": 1, "features": 1, "bias": -2.0, "scale": 0.5, "threshold": 0.5, "embedder": None, "card": {}}
    weights = np.arange(256).astype(np.int8)
    save_file({"weights": weights}, tmp_path / "f", {"srp_front": json.dumps(front)})
    (tmp_path / "c.yaml").write_text(f"front: {{guard: 'front:{tmp_path}/f'}}\nback: {{guard: heuristic}}\n")
    heuristic = load_guard("heuristic")
    calibration = {"version": 1, "threshold": 0.3, "target": {"miss": 0.01, "confidence": 0.95, "of": "Unsafe"}}
    calibration |= {"front": load_guard(f"front:{tmp_path}/f").settings, "back": heuristic.settings}
    (tmp_path / "c.calibration.json").write_text(json.dumps(calibration))
    guard = load_guard(f"cascade:{tmp_path}/c.yaml")
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    store = AnnotationStore.create(tmp_path / "store", {**guard.settings, "max_words": 8})
    Annotator(InputFiles([path]), store, guard, 8).run()
    table = pq.read_table(next((tmp_path / "store" / "text").rglob("*.parquet")))
    rows = table.to_pylist()
    pairs = [pair for row in rows for pair in zip(row["stages"], row["front_harms"], strict=True)]
    assert {stage for stage, _ in pairs} == {"front", "back"}
    assert all((stage == "front") == (harm < 0.3) for stage, harm in pairs)
    settled = json.loads(table.schema.metadata[b"settled"])
    assert sum(settled.values()) == len(pairs)
    highest = max(harm for stage, harm in pairs if stage == "front")
    assert float(table.schema.metadata[b"highest_harm"]) == highest


def test_a_sidecar_of_a_plain_shard(shards):
    plain = shards / "plain_text_document"
    flags = ["--guard", "heuristic", "--max-words", "8", "--output-prefix", str(shards / "w8")]
    preprocess.main(["--input-shards", str(plain), *flags])
    rows, header = read_sidecar(shards / "w8_plain_text_document.srp")
    assert header["materialized"] is False and header["info"]["shard"]["name"] == plain.name
    view = ReflectedIndexedDataset(plain, shards / "w8_plain_text_document.srp")
    for i, (tokens, row) in enumerate(zip(read_shard(plain), rows, strict=True)):
        assert interleave(tokens, row, header["table"]) == view[i].tolist()
