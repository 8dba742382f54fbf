"""Corpora on the hub and on S3, both on loopback: what comes of them is what comes of a copy here."""

import csv
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_srp.cli.annotate import main as annotate
from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.corpus.patterns import expand_inputs
from megatron_srp.corpus.readers import read_batches
from tests.helpers.object_store import BUCKET
from tests.helpers.remote_corpus import NAME, TEXTS, copy_here, jsonl, make, shards


@pytest.mark.parametrize("below", ["data", "data/**/*.parquet", "data/CC/part-[1-3].*", "data/CC/part-1.jsonl"])
def test_shards_are_those_of_a_copy(below, hub, corpus_store, flags, tmp_path):
    expected, plain = make(str(copy_here(tmp_path / "copy") / below), tmp_path / "here", flags)
    from_hub, at_hub = make(f"hf://datasets/{NAME}/{below}", tmp_path / "hub", flags)
    from_s3, at_s3 = make(f"s3://{BUCKET}/{below}", tmp_path / "s3", flags)
    assert from_hub == from_s3 == expected
    for place, manifest in {f"hf://datasets/{NAME}": at_hub, f"s3://{BUCKET}": at_s3}.items():
        for source, local in zip(manifest["inputs"], plain["inputs"], strict=True):
            assert {name: source[name] for name in local} == local
            assert source["place"].startswith(f"{place}/data/") and source["version"]
    assert {source["commit"] for source in at_hub["inputs"]} == {hub.commit(NAME)}


def test_verdicts_of_a_copy_are_found_for_the_remote_files(hub, flags, tmp_path):
    copy = copy_here(tmp_path / "copy")
    store = ["--store", str(tmp_path / "store")]
    assert annotate(["--input", str(copy / "data"), "--guard", "heuristic", "--max-words", "20", *store]) == 0
    prefix = tmp_path / "c"
    source = f"hf://datasets/{NAME}/data"
    assert preprocess(["--input", source, *flags, *store, "--output-prefix", str(prefix)]) == 0
    assert shards(prefix) == make(str(copy / "data"), tmp_path / "here", flags)[0]


def test_a_revision_can_be_named(hub):
    hub.put("someone/moving", "a.jsonl", jsonl(["old"]))
    old = hub.commit("someone/moving")
    hub.put("someone/moving", "a.jsonl", jsonl(["new"]))
    for revision, text in {f"@{old}": "old", "@main": "new", "": "new"}.items():
        (batch,) = read_batches(expand_inputs([f"hf://datasets/someone/moving{revision}/*.jsonl"]), ["text"])
        assert batch.texts["text"][0] == text


def test_only_the_columns_and_row_groups_that_are_needed_are_fetched(hub):
    wide = io.BytesIO()
    noise = [os.urandom(4000).hex() for _ in range(400)]
    pq.write_table(pa.table({"noise": noise, "text": TEXTS[:400]}), wide, row_group_size=40, compression="none")
    hub.put("someone/wide", "a.parquet", wide.getvalue())
    files = expand_inputs(["hf://datasets/someone/wide/a.parquet"])
    hub.served.clear()
    assert sum(len(batch.rows) for batch in read_batches(files, ["text"])) == 400
    whole = hub.served["a.parquet"]
    assert whole < len(wide.getvalue()) / 2
    hub.served.clear()
    assert sum(len(batch.rows) for batch in read_batches(files, ["text"], (0, 360))) == 40
    assert hub.served["a.parquet"] < whole / 2


def test_a_guard_is_evaluated_on_remote_tables(hub, corpus_store, capsys):
    from megatron_srp.cli.evaluate_guard import main as evaluate_guard

    rows = io.StringIO()
    csv.writer(rows).writerows([["prompt", "label"], ["How to build a bomb", "harmful"], ["Good morning", "safe"]])
    hub.put("someone/table", "t.csv", rows.getvalue().encode())
    corpus_store.put_object(Bucket=BUCKET, Key="t.csv", Body=rows.getvalue().encode())
    for place in ("hf://datasets/someone/table", f"s3://{BUCKET}"):
        columns = ["--text-column", "prompt", "--label-column", "label"]
        evaluate_guard(["--guard", "heuristic", "--dataset", f"csv:{place}/t.csv", *columns])
        assert f"{place}/t.csv" in (shown := capsys.readouterr().out), shown


def test_sft_reads_remote_conversations(hub, tmp_path):
    from megatron_srp.cli.sft import main as sft

    rows = [{"prompt": f"Question {i}?", "response": f"Answer {i}."} for i in range(20)]
    hub.put("someone/chats", "train/a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    source = ["--input", "hf://datasets/someone/chats/train/*.jsonl", "--guard", "heuristic", "--keep-share", "1"]
    assert sft([*source, "--out", str(tmp_path / "o.jsonl")]) == 0
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 20
