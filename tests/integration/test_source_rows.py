"""The input row of a document, found through the manifest, is the row that has its text."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.host.source_rows import source_row
from tests.conftest import random_texts


def make_shard(folder: Path, tokenizer: tuple[str, Path], files: dict[str, list[str]]) -> str:
    for name, texts in files.items():
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    kind, model = tokenizer
    inputs = [
        "--input",
        *(str(folder / name) for name in files),
        "--tokenizer-type",
        kind,
        "--tokenizer-model",
        str(model),
    ]
    preprocess([*inputs, "--guard", "none", "--append-eod", "--output-prefix", str(folder / "plain")])
    return str(folder / "plain_text_document")


def test_one_file(tokenizer_models: dict[str, Any], tmp_path: Path) -> None:
    texts = random_texts(3, 6, 40)
    shard = make_shard(tmp_path, tokenizer_models["gpt2"], {"a.jsonl": texts})
    preprocess(["--input-shards", shard, "--guard", "heuristic", "--output-prefix", str(tmp_path / "w")])
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    for number in range(len(texts)):
        places = [source_row(path, number) for path in (shard, str(tmp_path / "w_plain_text_document.srp"))]
        assert places[0] is not None and places[0] == places[1]
        file, row = places[0]
        assert Path(file).name == "a.jsonl"
        read = tokenizer.decode(IndexedShard(shard)[number][:-1].tolist())
        assert read == texts[row - 1]


@pytest.mark.parametrize("files", [{"a.jsonl": ["One.", "", "Two."]}, {"a.jsonl": ["One."], "b.jsonl": ["Two."]}])
def test_rows_that_the_manifest_does_not_determine(
    files: dict[str, list[str]], tokenizer_models: dict[str, Any], tmp_path: Path
) -> None:
    assert source_row(make_shard(tmp_path, tokenizer_models["gpt2"], files), 1) is None


def test_a_shard_without_manifest(tmp_path: Path) -> None:
    assert source_row(str(tmp_path / "other_text_document"), 0) is None
