"""Corpora on the hub and on S3 that fail, change or refuse: a run resumes, or ends in one line."""

import pytest

from megatron_srp.corpus.patterns import expand_inputs
from megatron_srp.corpus.readers import read_batches
from megatron_srp.errors import InputError, SrpError, UsageError
from tests.helpers.commands import srp
from tests.helpers.object_store import BUCKET, refusing_store
from tests.helpers.remote_corpus import NAME, TEXTS, jsonl, make, parquet


@pytest.mark.parametrize("fault", [503, "cut"])
def test_failed_requests_are_repeated(fault, hub):
    hub.faults = [fault]
    (file,) = expand_inputs([f"hf://datasets/{NAME}/data/CC/part-1.jsonl"])
    assert sum(len(batch.rows) for batch in read_batches([file], ["text"])) == 50
    assert not hub.faults


class Stops(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("place", ["hub", "s3"])
def test_a_stopped_run_resumes_unless_the_object_has_changed(place, hub, corpus_store, flags, tmp_path, monkeypatch):
    from megatron_srp.data.builder import ShardBuilder

    name = f"someone/resumed-{place}"

    def put(path, content):
        hub.put(name, path, content)
        corpus_store.put_object(Bucket=BUCKET, Key=f"{name}/{path}", Body=content)

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


def test_an_object_replaced_while_it_is_read_is_noticed(corpus_store):
    corpus_store.put_object(Bucket=BUCKET, Key="replaced.jsonl", Body=jsonl(TEXTS[:40]) * 100)
    (file,) = expand_inputs([f"s3://{BUCKET}/replaced.jsonl"])
    stream = file.open("rb")
    stream.read(10)
    corpus_store.put_object(Bucket=BUCKET, Key="replaced.jsonl", Body=jsonl(TEXTS[1:41]) * 100)
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
def test_mistakes_are_one_line(url, said, hub, corpus_store):
    hub.put("someone/private", "a.jsonl", b"{}")
    hub.private.add("someone/private")
    corpus_store.put_object(Bucket=BUCKET, Key="data/CC/part-9.jsonl", Body='{"text": "a"}\n'.encode("utf-16"))
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
def test_refused_or_missing_credentials_are_one_line(known, corpus_store, monkeypatch, flags, tmp_path):
    with refusing_store() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        if not known:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                monkeypatch.delenv(name)
            monkeypatch.setenv("HOME", str(tmp_path))
        given = ["--input", f"s3://{BUCKET}/a.jsonl", *flags, "--guard", "none", "--output-prefix", tmp_path / "c"]
        done = srp("preprocess", *given)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert ("access is refused" if known else "no credentials") in done.stderr and "AWS_ACCESS_KEY_ID" in done.stderr


def test_a_missing_driver_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UsageError, match=r"needs s3fs.*pip install 'megatron-srp\[s3\]'"):
        expand_inputs(["s3://bucket/a.jsonl"])
