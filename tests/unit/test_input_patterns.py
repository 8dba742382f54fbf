"""Files that paths, folders and patterns name."""

import pytest

from megatron_srp.corpus.patterns import expand_inputs
from megatron_srp.errors import UsageError


def test_patterns(tmp_path):
    files = [tmp_path / f"{c}.jsonl" for c in "ba"]
    for file in files:
        file.touch()
    assert expand_inputs([str(tmp_path / "*.jsonl")]) == sorted(files)
    for patterns, message in [
        ([f"{tmp_path}/*.gz"], "no file matches"),
        ([f"{tmp_path}/c.jsonl"], "no such file"),
        ([f"{tmp_path}/a.jsonl", f"{tmp_path}/*"], "twice"),
    ]:
        with pytest.raises(UsageError, match=message):
            expand_inputs(patterns)


def test_a_folder_stands_for_the_corpus_files_below_it(tmp_path):
    names = [
        "lang=de/b.parquet",
        "lang=de/_SUCCESS",
        "lang=en/a.jsonl.zst",
        "notes.txt",
        "_temporary/x.jsonl",
        ".git/y.json",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    found = [tmp_path / "lang=de" / "b.parquet", tmp_path / "lang=en" / "a.jsonl.zst"]
    assert expand_inputs([str(tmp_path)]) == found
    assert expand_inputs([f"{tmp_path}/lang=*"]) == found  # a pattern of folders
    assert expand_inputs([f"{tmp_path}/lang=*/*.parquet"]) == found[:1]
    with pytest.raises(UsageError, match=r"--harmful .*: no \.jsonl, \.json or \.parquet file in this folder"):
        expand_inputs([str(tmp_path / "empty")], "--harmful")
    with pytest.raises(UsageError, match=r"no file matches; for folders inside folders write 'FOLDER/\*\*/"):
        expand_inputs([f"{tmp_path}/*.parquet"])
