"""Shards and stores on S3: whole or absent, resumed after a stop, and read there by Megatron itself."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from megatron_srp.cli.annotate import main as annotate
from megatron_srp.cli.merge import main as merge
from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.cli.verdicts import main as verdicts
from megatron_srp.errors import InputError, OutputError, SrpError, UsageError
from megatron_srp.remote.objects import Objects
from tests.conftest import random_texts
from tests.helpers.object_store import BUCKET

TEXTS = random_texts(8, 150, 60)


@pytest.fixture
def flags(tokenizer_models, write_jsonl, tmp_path):
    kind, model = tokenizer_models["gpt2"]
    files = [str(write_jsonl(TEXTS[:100], "a.jsonl")), str(write_jsonl(TEXTS[100:], "b.jsonl"))]
    return [
        "--input",
        *files,
        "--tokenizer-type",
        kind,
        "--tokenizer-model",
        str(model),
        "--append-eod",
        "--max-words",
        "20",
    ]


def objects(client, folder: str) -> dict[str, bytes]:
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{folder}/").get("Contents", [])
    return {
        entry["Key"].removeprefix(f"{folder}/"): client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        for entry in found
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_on_s3_are_those_of_a_run_here(store, flags, tmp_path):
    work = ["--work-dir", str(tmp_path / "work"), "--guard", "heuristic"]
    assert preprocess([*flags, *work, "--output-prefix", str(tmp_path / "here" / "c")]) == 0
    assert preprocess([*flags, *work, "--output-prefix", f"s3://{BUCKET}/made/c"]) == 0
    here, there = contents(tmp_path / "here"), objects(store, "made")
    assert json.loads(there.pop("c.srp.json")) == json.loads(here.pop("c.srp.json"))
    assert there == here
    assert not contents(tmp_path / "work")  # nothing is left behind
    with pytest.raises(UsageError, match="exists already; pass --overwrite"):
        preprocess([*flags, *work, "--output-prefix", f"s3://{BUCKET}/made/c"])
    assert preprocess([*flags, *work, "--output-prefix", f"s3://{BUCKET}/made/c", "--overwrite"]) == 0


def test_the_tokenizer_with_added_tokens_moves_too(store, flags, tmp_path):
    work = ["--work-dir", str(tmp_path / "work"), "--guard", "heuristic", "--reflection-tokens", "special"]
    assert preprocess([*flags, *work, "--output-prefix", f"s3://{BUCKET}/special/c"]) == 0
    there = objects(store, "special")
    model = json.loads(there["c.srp.json"])["tokenizer"]["model"]
    assert model == f"s3://{BUCKET}/special/c_tokenizer" and "c_tokenizer/tokenizer.json" in there


@pytest.mark.parametrize("sent", range(4))
def test_a_run_stopped_while_it_uploads_leaves_no_manifest_and_resumes(sent, store, flags, tmp_path, monkeypatch):
    prefix = [
        "--guard",
        "heuristic",
        "--work-dir",
        str(tmp_path / "work"),
        "--output-prefix",
        f"s3://{BUCKET}/cut-{sent}/c",
    ]
    uploads = []

    def upload(self, file, name, checksum="", _upload=Objects.upload):
        uploads.append(name)
        if len(uploads) > sent:
            raise OutputError("the network is down")
        _upload(self, file, name, checksum)

    with monkeypatch.context() as patch:
        if sent < 3:
            patch.setattr(Objects, "upload", upload)
        else:
            patch.setattr(Objects, "write", lambda *_: (_ for _ in ()).throw(OutputError("the network is down")))
        with pytest.raises(OutputError):
            preprocess([*flags, *prefix])
    assert len(objects(store, f"cut-{sent}")) == sent and "c.srp.json" not in objects(store, f"cut-{sent}")
    uploads.clear()
    with monkeypatch.context() as patch:
        patch.setattr(
            Objects, "upload", lambda *given, _upload=Objects.upload: (uploads.append(given[2]), _upload(*given))
        )
        assert preprocess([*flags, *prefix]) == 0
    assert len(uploads) == 3 - sent  # what had been sent is not sent again
    assert preprocess([*flags, "--guard", "heuristic", "--output-prefix", str(tmp_path / "here" / "c")]) == 0
    there, here = objects(store, f"cut-{sent}"), contents(tmp_path / "here")
    assert {name: there[name] for name in there if name != "c.srp.json"} == {
        name: here[name] for name in here if name != "c.srp.json"
    }


def test_other_settings_after_a_stopped_upload_are_refused(store, flags, tmp_path, monkeypatch):
    argv = [*flags, "--work-dir", str(tmp_path / "work"), "--output-prefix", f"s3://{BUCKET}/other/c"]
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "write", lambda *_: (_ for _ in ()).throw(OutputError("the network is down")))
        with pytest.raises(OutputError):
            preprocess([*argv, "--guard", "heuristic"])
    with pytest.raises(UsageError, match="other settings"):
        preprocess([*argv, "--guard", "none"])


def test_partitions_of_an_array_job(store, flags, tmp_path):
    argv = [*flags, "--guard", "heuristic", "--num-partitions", "2", "--output-prefix", f"s3://{BUCKET}/parts/c"]
    for machine, index in enumerate([0, 1, 1]):  # the last on a machine that has not seen it
        assert preprocess([*argv, "--partition-index", str(index), "--work-dir", str(tmp_path / f"m{machine}")]) == 0
    names = {name for name in objects(store, "parts") if name.endswith(".srp.json")}
    assert names == {"c-00000-of-00002.srp.json", "c-00001-of-00002.srp.json"}


def test_partitions_on_s3_are_joined_there_or_here(store, flags, tmp_path, capsys):
    made, work = f"s3://{BUCKET}/joined/c", ["--work-dir", str(tmp_path / "work")]
    argv = [*flags, "--guard", "heuristic", "--reflection-tokens", "special"]
    for index in range(2):
        parts = ["--num-partitions", "2", "--partition-index", str(index)]
        assert preprocess([*argv, *work, *parts, "--output-prefix", made]) == 0
        assert preprocess([*argv, *parts, "--output-prefix", str(tmp_path / "parts" / "c")]) == 0
    merge([str(tmp_path / "here" / "all"), str(tmp_path / "parts" / "c")])
    merge([*work, str(tmp_path / "fetched" / "all"), made])
    assert not contents(tmp_path / "work")
    merge([*work, f"s3://{BUCKET}/all/all", made])
    here, fetched, there = contents(tmp_path / "here"), contents(tmp_path / "fetched"), objects(store, "all")
    model = json.loads(there["all.srp.json"])["tokenizer"]["model"]
    assert model == f"s3://{BUCKET}/all/all_tokenizer"
    for joined in (here, fetched, there):
        del joined["all.srp.json"]  # its tokenizer is elsewhere
    assert here == fetched == there and len(here) > 3
    assert not contents(tmp_path / "work")
    capsys.readouterr()
    merge([*work, "--print-blend", made])
    blend = capsys.readouterr().out.split()
    assert blend[1::2] == [f"{made}-0000{i}-of-00002_text_document" for i in range(2)] and blend[0].isdigit()
    with pytest.raises(InputError, match="no finished output is there"):
        merge([*work, str(tmp_path / "x"), f"s3://{BUCKET}/joined/d"])


def test_a_store_on_s3(store, flags, tmp_path, capsys):
    judged = [*flags[:3], "--guard", "heuristic", "--max-words", "20", "--chunk-documents", "40"]
    s3 = f"s3://{BUCKET}/verdicts"
    assert annotate([*judged, "--store", str(tmp_path / "here")]) == 0
    for machine in (0, 1):  # each annotates a half; the second starts from what the first has uploaded
        half = ["--num-partitions", "2", "--partition-index", str(machine), "--work-dir", str(tmp_path / f"m{machine}")]
        assert annotate([*judged, *half, "--store", s3]) == 0
    here = {name: content for name, content in contents(tmp_path / "here").items() if not name.startswith("writers")}
    assert objects(store, "verdicts") == here
    prefix = ["--work-dir", str(tmp_path / "m2"), "--output-prefix"]
    assert preprocess([*flags, "--store", s3, *prefix, str(tmp_path / "s3" / "c")]) == 0
    assert preprocess([*flags, "--store", str(tmp_path / "here"), *prefix, str(tmp_path / "plain" / "c")]) == 0
    assert contents(tmp_path / "s3") == contents(tmp_path / "plain")
    place = ["--input", flags[1], "--row", "1"]
    work = ["--work-dir", str(tmp_path / "m3")]
    assert verdicts([*work, s3, "set", *place, "--segment", "1", "--verdict", "Unsafe", "--who", "me"]) == 0
    assert verdicts(["--work-dir", str(tmp_path / "m0"), s3, "list", *place]) == 0  # where the old part still is
    assert "Unsafe" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("hf://datasets/a/b/c", "outputs go to this machine or to s3://"),
        ("gs://a/b", "choose from hf://, s3://"),
        ("s3://bucket", "pass s3://BUCKET/FOLDER/NAME"),
        ("s3://no-such-bucket/a/c", "no such file, data set or bucket"),
    ],
)
def test_mistakes_are_one_line(prefix, said, store, flags, tmp_path):
    with pytest.raises(SrpError, match=said) as caught:
        preprocess([*flags, "--guard", "none", "--output-prefix", prefix, "--work-dir", str(tmp_path / "work")])
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_megatron_reads_the_shards_on_s3(store, flags, tmp_path):
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.object_storage_utils import ObjectStorageConfig

    work = ["--work-dir", str(tmp_path / "work"), "--guard", "heuristic"]
    assert preprocess([*flags, *work, "--output-prefix", f"s3://{BUCKET}/read/c"]) == 0
    assert preprocess([*flags, *work, "--output-prefix", str(tmp_path / "c")]) == 0
    config = ObjectStorageConfig(path_to_idx_cache=str(tmp_path / "cache"))
    there = IndexedDataset(f"s3://{BUCKET}/read/c_text_document", mmap=False, object_storage_config=config)
    here = IndexedDataset(str(tmp_path / "c_text_document"))
    assert len(there) == len(here) == len(TEXTS)
    for i in range(0, len(here), 7):
        np.testing.assert_array_equal(there[i], here[i])


def sample_config(folder: Path, **changed):
    """Of a run on a shard on S3, in a folder of this machine."""
    from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

    options = {
        "random_seed": 1,
        "sequence_length": 64,
        "blend": ([f"s3://{BUCKET}/samples/c_text_document"], None),
        "split": "1,0,0",
        "tokenizer": SimpleNamespace(eod=0, eos=0, pad=-1, vocab_size=600, unique_identifiers={"class": "T"}),
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "mmap_bin_files": False,
        "object_storage_cache_path": str(folder / "indices"),
    }
    return GPTDatasetConfig(**options | changed)


@pytest.mark.slow
def test_sample_indices_of_a_shard_on_s3_stay_on_this_machine(store, flags, tmp_path, monkeypatch):
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset

    from megatron_srp import register

    work = ["--work-dir", str(tmp_path / "work"), "--guard", "none"]
    assert preprocess([*flags, *work, "--output-prefix", f"s3://{BUCKET}/samples/c"]) == 0
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    register()
    builder = BlendedMegatronDatasetBuilder(GPTDataset, [9, 0, 0], lambda: True, sample_config(tmp_path))
    assert len(builder.build()[0]) >= 9
    assert list((tmp_path / "indices").glob("*-sample_index.npy"))
    assert not list(Path.cwd().iterdir())
    mistakes: dict[str, dict[str, object]] = {
        "--object-storage-cache-path": {"object_storage_cache_path": None},
        "--no-mmap": {"mmap_bin_files": True},
    }
    for said, changed in mistakes.items():
        with pytest.raises(UsageError, match=said):
            BlendedMegatronDatasetBuilder(GPTDataset, [9, 0, 0], lambda: True, sample_config(tmp_path, **changed))
