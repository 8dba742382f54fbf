"""Corpora on the hub and on S3, both on loopback: the same shards as from a copy here, and a line for each mistake."""

import bz2
import csv
import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_srp.cli.annotate import main as annotate
from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.corpus.readers import expand_inputs, read_batches
from megatron_srp.errors import InputError, SrpError, UsageError
from tests.conftest import random_texts
from tests.helpers.commands import srp
from tests.helpers.hub import running_hub
from tests.helpers.object_store import BUCKET, refusing_store, running_store

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


@pytest.fixture(scope="module")
def hub():
    # The driver reads the address when it is imported.
    with running_hub() as hub, pytest.MonkeyPatch.context() as patch:
        from huggingface_hub import constants

        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HUB_OFFLINE", "0")
        for path, content in FILES.items():
            hub.put(NAME, path, content)
        yield hub


@pytest.fixture(scope="module")
def store():
    with running_store() as client:
        for path, content in FILES.items():
            client.put_object(Bucket=BUCKET, Key=path, Body=content)
        yield client


@pytest.fixture
def flags(tokenizer_models):
    kind, model = tokenizer_models["gpt2"]
    return ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod", "--max-words", "20"]


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


@pytest.mark.parametrize("below", ["data", "data/**/*.parquet", "data/CC/part-[1-3].*", "data/CC/part-1.jsonl"])
def test_shards_are_those_of_a_copy(below, hub, store, flags, tmp_path):
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
    assert (
        annotate(
            [
                "--input",
                str(copy / "data"),
                "--guard",
                "heuristic",
                "--max-words",
                "20",
                "--store",
                str(tmp_path / "store"),
            ]
        )
        == 0
    )
    prefix = tmp_path / "c"
    assert (
        preprocess(
            [
                "--input",
                f"hf://datasets/{NAME}/data",
                *flags,
                "--store",
                str(tmp_path / "store"),
                "--output-prefix",
                str(prefix),
            ]
        )
        == 0
    )
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


@pytest.mark.parametrize("fault", [503, "cut"])
def test_failed_requests_are_repeated(fault, hub):
    hub.faults = [fault]
    (file,) = expand_inputs([f"hf://datasets/{NAME}/data/CC/part-1.jsonl"])
    assert sum(len(batch.rows) for batch in read_batches([file], ["text"])) == 50
    assert not hub.faults


class Stops(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("place", ["hub", "s3"])
def test_a_stopped_run_resumes_unless_the_object_has_changed(place, hub, store, flags, tmp_path, monkeypatch):
    from megatron_srp.data.builder import ShardBuilder

    name = f"someone/resumed-{place}"

    def put(path, content):
        hub.put(name, path, content)
        store.put_object(Bucket=BUCKET, Key=f"{name}/{path}", Body=content)

    put("a.jsonl", jsonl(TEXTS[:200]))
    put("b.parquet", parquet(TEXTS[200:]))
    source = f"hf://datasets/{name}" if place == "hub" else f"s3://{BUCKET}/{name}"
    whole, _ = make(source, tmp_path / "whole", flags)
    commits, stop = [], {}

    def commit(self, position, _commit=ShardBuilder.commit):
        _commit(self, position)
        commits.append(position)
        if len(commits) == stop["after"]:
            raise Stops

    monkeypatch.setattr(ShardBuilder, "commit", commit)
    for stop["after"] in (2, 4):  # in the first file, and in the second
        commits.clear()
        with pytest.raises(Stops):
            make(source, tmp_path / "c", flags, "--chunk-documents", "50")
    put("README.md", b"another commit, which leaves the files as they are")
    stop["after"] = 0
    commits.clear()
    resumed, _ = make(source, tmp_path / "c", flags, "--chunk-documents", "50")
    assert resumed == whole and commits[0]["file"] == 1

    commits.clear()
    stop["after"] = 2
    with pytest.raises(Stops):
        make(source, tmp_path / "changed", flags, "--chunk-documents", "50")
    put("a.jsonl", jsonl(["another beginning", *TEXTS[1:200]]))
    with pytest.raises(UsageError, match=r"half-done run with other settings: inputs\[a.jsonl"):
        make(source, tmp_path / "changed", flags, "--chunk-documents", "50")


def test_an_object_replaced_while_it_is_read_is_noticed(store):
    store.put_object(Bucket=BUCKET, Key="replaced.jsonl", Body=jsonl(TEXTS[:40]) * 100)
    (file,) = expand_inputs([f"s3://{BUCKET}/replaced.jsonl"])
    stream = file.open("rb")
    stream.read(10)
    store.put_object(Bucket=BUCKET, Key="replaced.jsonl", Body=jsonl(TEXTS[1:41]) * 100)
    stream.seek(400_000)  # beyond what was fetched with the first bytes
    with pytest.raises(InputError, match="changed while it was read"):
        stream.read(5)
    with pytest.raises(InputError, match="changed since this run began"):
        file.open("rb")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"hf://datasets/{NAME}/nothing.jsonl", "no such file"),
        (f"hf://datasets/{NAME}/*.csv", "no file matches"),
        ("hf://datasets/someone/unknown/*.parquet", "no such file, data set or bucket"),
        ("hf://datasets/someone/private/a.jsonl", "set HF_TOKEN"),
        (f"hf://datasets/{NAME}@v9/data", "no such file"),
        (f"s3://{BUCKET}/nothing.jsonl", "no such file"),
        (f"s3://{BUCKET}/*.csv", "no file matches"),
        ("s3://unknown/a.jsonl", "no such file, data set or bucket"),
        ("gs://bucket/a.jsonl", "choose from hf://, s3:// and paths"),
        (f"s3://{BUCKET}/data/CC/part-9.jsonl", "part-9.jsonl: .*UTF-16"),
    ],
)
def test_mistakes_are_one_line(url, said, hub, store):
    hub.put("someone/private", "a.jsonl", b"{}")
    hub.private.add("someone/private")
    store.put_object(Bucket=BUCKET, Key="data/CC/part-9.jsonl", Body='{"text": "a"}\n'.encode("utf-16"))
    with pytest.raises(SrpError, match=said) as caught:
        list(read_batches(expand_inputs([url]), ["text"]))
    assert "\n" not in str(caught.value)


def test_a_gated_data_set_asks_for_a_login(hub):
    hub.put("someone/gated", "a.jsonl", jsonl(["a"]))
    hub.gated.add("someone/gated")
    files = expand_inputs(["hf://datasets/someone/gated/a.jsonl"])  # its list of files is public
    with pytest.raises(InputError, match="HF_TOKEN, and accept"):
        list(read_batches(files, ["text"]))


@pytest.mark.parametrize("known", [True, False])
def test_refused_or_missing_credentials_are_one_line(known, store, monkeypatch, flags, tmp_path):
    with refusing_store() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        if not known:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                monkeypatch.delenv(name)
            monkeypatch.setenv("HOME", str(tmp_path))
        done = srp(
            "preprocess",
            "--input",
            f"s3://{BUCKET}/a.jsonl",
            *flags,
            "--guard",
            "none",
            "--output-prefix",
            tmp_path / "c",
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert ("access is refused" if known else "no credentials") in done.stderr and "AWS_ACCESS_KEY_ID" in done.stderr


def test_a_missing_driver_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UsageError, match=r"needs s3fs.*pip install 'megatron-srp\[s3\]'"):
        expand_inputs(["s3://bucket/a.jsonl"])


def test_a_guard_is_evaluated_on_remote_tables(hub, store, capsys):
    from megatron_srp.cli.evaluate_guard import main as evaluate_guard

    rows = io.StringIO()
    csv.writer(rows).writerows([["prompt", "label"], ["How to build a bomb", "harmful"], ["Good morning", "safe"]])
    hub.put("someone/table", "t.csv", rows.getvalue().encode())
    store.put_object(Bucket=BUCKET, Key="t.csv", Body=rows.getvalue().encode())
    for place in ("hf://datasets/someone/table", f"s3://{BUCKET}"):
        columns = ["--text-column", "prompt", "--label-column", "label"]
        evaluate_guard(["--guard", "heuristic", "--dataset", f"csv:{place}/t.csv", *columns])
        assert f"{place}/t.csv" in (shown := capsys.readouterr().out), shown


def test_sft_reads_remote_conversations(hub, tmp_path):
    from megatron_srp.cli.sft import main as sft

    rows = [{"prompt": f"Question {i}?", "response": f"Answer {i}."} for i in range(20)]
    hub.put("someone/chats", "train/a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    assert (
        sft(
            [
                "--input",
                "hf://datasets/someone/chats/train/*.jsonl",
                "--guard",
                "heuristic",
                "--keep-share",
                "1",
                "--out",
                str(tmp_path / "o.jsonl"),
            ]
        )
        == 0
    )
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 20
