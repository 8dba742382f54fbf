"""The input row of a document, found through the manifest, is the row that has its text."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.cli.merge import main as merge
from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.host.source_rows import source_row
from tests.conftest import random_texts


def make_shard(folder: Path, tokenizer: tuple[str, Path], files: dict[str, list[str]], name: str = "plain") -> str:
    """A plain shard of a folder with these files."""
    (folder / name).mkdir()
    for file, texts in files.items():
        (folder / name / file).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    kind, model = tokenizer
    inputs = ["--input", str(folder / name), "--tokenizer-type", kind, "--tokenizer-model", str(model)]
    more = ["--guard", "none", "--append-eod", "--chunk-documents", "2", "--output-prefix", str(folder / name)]
    preprocess([*inputs, *more])
    return str(folder / f"{name}_text_document")


def check_rows(path: str, shard: str, tokenizer: tuple[str, Path], files: list[tuple[str, list[str]]]) -> None:
    """Every document's row, compared with the rows of the files, read one after the other."""
    expected = [(file, row, text) for file, texts in files for row, text in enumerate(texts, 1)]
    loaded, read = load_tokenizer(*tokenizer), IndexedShard(shard)
    assert len(read) == len(expected)
    for number, (file, row, text) in enumerate(expected):
        assert source_row(path, number) == (file, row)
        assert loaded.decode(read[number][:-1].tolist()) == text
    assert source_row(path, len(expected)) is None


FILES = {name: random_texts(seed, 3 + 2 * seed, 40) for seed, name in enumerate(["a.jsonl", "b.jsonl", "c.jsonl"])}


@pytest.mark.parametrize("names", [["a.jsonl"], ["a.jsonl", "b.jsonl", "c.jsonl"]])
def test_a_folder_of_files(names: list[str], tokenizer_models: dict[str, Any], tmp_path: Path) -> None:
    files = {name: FILES[name] for name in names}
    shard = make_shard(tmp_path, tokenizer_models["gpt2"], files)
    preprocess(["--input-shards", shard, "--guard", "heuristic", "--output-prefix", str(tmp_path / "w")])
    for path in (shard, str(tmp_path / "w_plain_text_document.srp")):
        check_rows(path, shard, tokenizer_models["gpt2"], list(files.items()))


def test_merged_shards(tokenizer_models: dict[str, Any], tmp_path: Path) -> None:
    """Two parts, of which each has a file of the same name."""
    first, second = {"a.jsonl": FILES["a.jsonl"], "b.jsonl": FILES["b.jsonl"]}, {"a.jsonl": FILES["c.jsonl"]}
    for name, files in (("one", first), ("two", second)):
        make_shard(tmp_path, tokenizer_models["gpt2"], files, name)
    merge([str(tmp_path / name) for name in ("all", "one", "two")])
    shard = str(tmp_path / "all_text_document")
    check_rows(shard, shard, tokenizer_models["gpt2"], [*first.items(), *second.items()])


def test_rows_that_the_manifest_does_not_determine(tokenizer_models: dict[str, Any], tmp_path: Path) -> None:
    files = {"a.jsonl": ["One.", "", "Two."], "b.jsonl": ["Three."]}
    assert source_row(make_shard(tmp_path, tokenizer_models["gpt2"], files), 1) is None


@pytest.mark.parametrize("blank", ["\n{}\n{}\n", "{}\n\n{}\n", "{}\n \n\n{}"])
def test_blank_lines_before_a_document_leave_its_row_unknown(
    blank: str, tokenizer_models: dict[str, Any], tmp_path: Path
) -> None:
    """They are rows of the file, but no documents: a row counted without them would be another document's."""
    (kind, model), file = tokenizer_models["gpt2"], tmp_path / "a.jsonl"
    file.write_text(blank.format(*[json.dumps({"text": text}) for text in ("One.", "Two.")]))
    flags = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--output-prefix", str(tmp_path / "a")]
    preprocess(["--input", str(file), "--guard", "none", "--append-eod", *flags])
    assert source_row(str(tmp_path / "a_text_document"), 1) is None


def test_blank_lines_at_the_end_change_no_row(tokenizer_models: dict[str, Any], tmp_path: Path) -> None:
    (kind, model), file = tokenizer_models["gpt2"], tmp_path / "a.jsonl"
    file.write_text('{"text": "One."}\n{"text": "Two."}\n\n \n')
    flags = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--output-prefix", str(tmp_path / "a")]
    preprocess(["--input", str(file), "--guard", "none", "--append-eod", *flags])
    assert source_row(str(tmp_path / "a_text_document"), 1) == ("a.jsonl", 2)


def test_a_shard_without_manifest(tmp_path: Path) -> None:
    assert source_row(str(tmp_path / "other_text_document"), 0) is None
