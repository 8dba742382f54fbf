"""Finished shards on S3: verified, inspected and stripped there as those on a disk are."""

import json
from pathlib import Path

import pytest

from megatron_srp.cli.inspect import main as inspect
from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.cli.strip import main as strip
from megatron_srp.cli.verify import main as verify
from megatron_srp.errors import InputError, UsageError
from tests.conftest import random_texts
from tests.helpers.object_store import BUCKET

THERE = f"s3://{BUCKET}/made"


@pytest.fixture(scope="module")
def here(store, tokenizer_models, tmp_path_factory) -> Path:
    """A folder with reflected shards, their two halves, and plain shards with a sidecar; S3 has the same."""
    folder = tmp_path_factory.mktemp("here")
    kind, model = tokenizer_models["gpt2"]
    texts = [json.dumps({"text": text}) + "\n" for text in random_texts(8, 60, 60)]
    for name, part in (("a", texts[:30]), ("b", texts[30:])):
        (folder / f"{name}.jsonl").write_text("".join(part))
    made = [
        "--input",
        str(folder / "*.jsonl"),
        "--tokenizer-type",
        kind,
        "--tokenizer-model",
        str(model),
        "--append-eod",
    ]
    judged = ["--guard", "heuristic", "--max-words", "9", "--work-dir", str(folder / "work")]
    for place in (str(folder), THERE):
        assert preprocess([*made, *judged, "--output-prefix", f"{place}/c"]) == 0
        for half in ("0", "1"):
            parts = ["--num-partitions", "2", "--partition-index", half]
            assert preprocess([*made, *judged, *parts, "--output-prefix", f"{place}/h"]) == 0
        assert preprocess([*made, "--guard", "none", *judged[-2:], "--output-prefix", f"{place}/plain"]) == 0
        shard = ["--input-shards", f"{place}/plain_text_document"]
        assert preprocess([*shard, *judged, "--output-prefix", f"{place}/w9"]) == 0
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The flags for a work folder, of which the test must leave no file."""
    monkeypatch.chdir(tmp_path)
    yield ["--work-dir", "work"]
    assert not [path for path in Path("work").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["c", "c_text_document", "w9", "plain"])
def test_verified(name, here, work, capsys):
    assert verify([f"{here}/{name}"]) == 0
    local = capsys.readouterr().out
    assert "no damage found" in local and str(here) in local
    assert verify([f"{THERE}/{name}", *work]) == 0
    assert capsys.readouterr().out == local.replace(str(here), THERE)


def test_both_halves_are_verified(here, work, capsys):
    assert verify([f"{THERE}/h", *work]) == 0
    assert capsys.readouterr().out.count(": 30 sequences, ") == 2


def test_damage_there_is_found(here, store, work, capsys):
    name = "made/h-00001-of-00002_text_document.bin"
    content = bytearray(store.get_object(Bucket=BUCKET, Key=name)["Body"].read())
    content[40] ^= 1
    store.put_object(Bucket=BUCKET, Key=f"damaged/{Path(name).name}", Body=bytes(content))
    for other in ("_text_document.idx", "_text_document.srp", ".srp.json"):
        source = {"Bucket": BUCKET, "Key": f"made/h-00001-of-00002{other}"}
        store.copy_object(Bucket=BUCKET, Key=f"damaged/h-00001-of-00002{other}", CopySource=source)
    assert verify([f"s3://{BUCKET}/damaged/h-00001-of-00002", *work]) == 2
    said = capsys.readouterr().out
    assert f"damaged: s3://{BUCKET}/damaged/h-00001-of-00002_text_document.bin: " in said and "work" not in said


@pytest.mark.parametrize("name", ["c", "c_text_document", "c_text_document.srp", "w9", "w9_plain_text_document"])
def test_inspected(name, here, work, capsys):
    inspect([f"{here}/{name}", "--json"])
    local = json.loads(capsys.readouterr().out)
    assert local["documents"] == 60 and local["sample"]
    inspect([f"{THERE}/{name}", "--json", *work])
    assert json.loads(capsys.readouterr().out) == local | {"shard": local["shard"].replace(str(here), THERE)}


def test_the_page_of_shards_on_s3_is_in_this_folder(here, work, capsys):
    inspect([f"{THERE}/c", *work])
    assert Path("c.report.html").stat().st_size > 10_000
    assert "wrote c.report.html" in capsys.readouterr().out


def test_a_sidecar_and_its_shard_in_two_places(here, store, work, capsys):
    for name in ("w9.srp.json", "w9_plain_text_document.srp"):
        store.copy_object(Bucket=BUCKET, Key=f"alone/{name}", CopySource={"Bucket": BUCKET, "Key": f"made/{name}"})
    assert verify([f"s3://{BUCKET}/alone/w9", *work]) == 0
    assert "its shard, plain_text_document, is not next to it" in capsys.readouterr().out
    inspect([f"{THERE}/w9", "--json", *work])
    together = json.loads(capsys.readouterr().out)
    for place in (THERE, str(here)):
        inspect([f"s3://{BUCKET}/alone/w9", "--shard", f"{place}/plain_text_document", "--json", *work])
        apart = json.loads(capsys.readouterr().out)
        assert apart == together | {"shard": f"s3://{BUCKET}/alone/w9_plain_text_document"}


def test_one_of_several_is_asked_for(here, work):
    with pytest.raises(UsageError, match=rf"/h names 2 outputs; pass one of them: {THERE}/h-00000-of-00002, "):
        inspect([f"{THERE}/h", *work])
    with pytest.raises(InputError, match="no finished output is there"):
        inspect([f"{THERE}/nothing", *work])


def test_stripped(here, store, work, tmp_path):
    strip([f"{here}/c", str(tmp_path / "s")])
    strip([f"{THERE}/c", f"{THERE}/s", *work])
    for suffix in ("bin", "idx"):
        there = store.get_object(Bucket=BUCKET, Key=f"made/s_text_document.{suffix}")["Body"].read()
        assert there == (tmp_path / f"s_text_document.{suffix}").read_bytes()
    assert verify([f"{THERE}/s", *work]) == 0
    with pytest.raises(UsageError, match="exists already"):
        strip([f"{THERE}/c", f"{THERE}/s", *work])
