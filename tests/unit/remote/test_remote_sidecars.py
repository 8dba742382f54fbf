"""Sidecars on S3: made from a shard there, found by the checks of a run, and read by Megatron with their reflections."""

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.data.shards.sidecar import ReflectionSidecar, read_header
from megatron_srp.errors import InputError, OutputError, SrpError, UsageError
from megatron_srp.files import replacing
from megatron_srp.remote import copies
from megatron_srp.remote.copies import cached_object
from megatron_srp.remote.objects import Objects
from megatron_srp.training.checks import data as shards
from megatron_srp.training.checks.data_record import describe_shards
from megatron_srp.training.checks.run_summary import summarize_run
from megatron_srp.training.checks.sidecars import match_sidecars
from megatron_srp.training.flags.command_line import look_at
from tests.conftest import random_texts
from tests.helpers.object_store import BUCKET, refusing_store

if TYPE_CHECKING:
    from megatron_srp.training.host.trace import Part

PLAIN = f"s3://{BUCKET}/plain/c_text_document"
SIDECAR = f"s3://{BUCKET}/plain/w9_c_text_document.srp"


@pytest.fixture(scope="module")
def here(store, tokenizer_models, tmp_path_factory) -> Path:
    """A folder with a plain shard and its sidecar, of which there are the same on S3, made there."""
    folder = tmp_path_factory.mktemp("here")
    kind, model = tokenizer_models["gpt2"]
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in random_texts(8, 60, 60)))
    made = ["--input", str(corpus), "--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod"]
    work = ["--work-dir", str(folder / "work")]
    for place in (str(folder), f"s3://{BUCKET}/plain"):
        assert preprocess([*made, *work, "--guard", "none", "--output-prefix", f"{place}/c"]) == 0
        assert preprocess([*reflected(f"{place}/c_text_document"), *work, "--output-prefix", f"{place}/w9"]) == 0
    assert not [path for path in (folder / "work").rglob("*") if path.is_file()]  # nothing is left
    return folder


def reflected(shard: str) -> list[str]:
    return ["--input-shards", shard, "--guard", "heuristic", "--max-words", "9"]


def run(tmp_path: Path, *argv: object):
    cache = ["--object-storage-cache-path", str(tmp_path / "cache"), "--no-mmap-bin-files"]
    return look_at([*map(str, argv), *cache])


def test_a_sidecar_made_on_s3_is_that_of_a_copy_here(here):
    there, local = read_header(SIDECAR), read_header(here / "w9_c_text_document.srp")
    assert there["info"]["shard"].pop("path") == PLAIN
    assert local["info"]["shard"].pop("path") == str(here / "c_text_document")
    assert there == local


def test_the_checks_of_a_run_see_it(here, tmp_path, tokenizer_models):
    flags, notes = shards.check_shards(args := run(tmp_path, "--data-path", PLAIN, "--srp-sidecar", SIDECAR))
    assert flags[3] == str(tokenizer_models["gpt2"][1]) and notes == []
    local = run(tmp_path, "--data-path", here / "c_text_document", "--srp-sidecar", here / "w9_c_text_document.srp")
    assert summarize_run(args) == summarize_run(local).replace(str(here), f"s3://{BUCKET}/plain")
    there, record = describe_shards(args)[0], describe_shards(local)[0]
    assert there.pop("shard") == PLAIN and record.pop("shard") == str(here / "c_text_document")
    assert there == record
    as_data = run(tmp_path, "--data-path", SIDECAR)
    shards.check_shards(as_data)
    assert match_sidecars([], shards.shard_prefixes(as_data)) == {SIDECAR: SIDECAR}


def test_a_shard_without_its_sidecar_has_a_note(store, here, tmp_path):
    note = f"{PLAIN} has no sidecar (--srp-sidecar FILE.srp): trained on without reflections"
    assert shards.check_shards(run(tmp_path, "--data-path", PLAIN))[1] == [note]
    for end in ("bin", "idx"):
        store.upload_file(str(here / f"c_text_document.{end}"), BUCKET, f"beside/plain.{end}")
    store.upload_file(str(here / "w9_c_text_document.srp"), BUCKET, "beside/plain.srp")
    tokenizer = look_at(shards.check_shards(run(tmp_path, "--data-path", PLAIN))[0])
    flags = ["--tokenizer-type", tokenizer.tokenizer_type, "--tokenizer-model", tokenizer.tokenizer_model]
    notes = shards.check_shards(run(tmp_path, *flags, "--data-path", url := f"s3://{BUCKET}/beside/plain"))[1]
    assert notes[-1] == f"{url}.srp is not used: trained on without reflections; to use it: --srp-sidecar {url}.srp"
    assert not [*(tmp_path / "cache").rglob("*.srp")]  # a look at its beginning was enough


def test_a_sidecar_is_copied_once_and_again_when_it_is_replaced(store, here, tmp_path):
    url = f"s3://{BUCKET}/replaced/w.srp"
    args = run(tmp_path, "--data-path", PLAIN, "--srp-sidecar", url)
    store.upload_file(str(here / "w9_c_text_document.srp"), BUCKET, "replaced/w.srp")
    shards.check_shards(args)
    (copy,) = (tmp_path / "cache").rglob("*.srp")
    first = copy.stat().st_ino
    shards.check_shards(args)
    assert copy.stat().st_ino == first
    argv = [*reflected(str(here / "c_text_document")), "--max-words", "30", "--output-prefix", str(tmp_path / "w30")]
    assert preprocess(argv) == 0
    store.upload_file(str(tmp_path / "w30_c_text_document.srp"), BUCKET, "replaced/w.srp")
    shards.check_shards(args)
    assert copy.read_bytes() == (tmp_path / "w30_c_text_document.srp").read_bytes()
    assert len(ReflectionSidecar.load(url)) == 60 and read_header(url)["info"]["max_words"] == 30


def test_processes_that_share_a_folder_fetch_an_object_once(store, here, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(copies, "replacing", lambda copy, **how: (fetched.append(copy), replacing(copy, **how))[1])
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: cached_object(SIDECAR, tmp_path), range(8)))
    assert found == {tmp_path / SIDECAR.removeprefix("s3://")} and len(fetched) == 1
    (bucket, _, key), (copy,) = SIDECAR.removeprefix("s3://").partition("/"), found
    assert copy.read_bytes() == store.get_object(Bucket=bucket, Key=key)["Body"].read()


def test_a_stopped_upload_resumes(store, here, tmp_path, monkeypatch):
    argv = [*reflected(PLAIN), "--work-dir", str(tmp_path / "work"), "--output-prefix", f"s3://{BUCKET}/stopped/w9"]
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "write", lambda *_: (_ for _ in ()).throw(OutputError("the network is down")))
        with pytest.raises(OutputError):
            preprocess(argv)
    assert preprocess(argv) == 0
    assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    with pytest.raises(UsageError, match="exists already; pass --overwrite"):
        preprocess(argv)


def test_added_tokens_are_recorded_where_they_are_uploaded(here, tmp_path):
    prefix = f"s3://{BUCKET}/special/w9"
    work = ["--work-dir", str(tmp_path / "work"), "--reflection-tokens", "special"]
    assert preprocess([*reflected(PLAIN), *work, "--output-prefix", prefix]) == 0
    sidecar = f"{prefix}_c_text_document.srp"
    assert read_header(sidecar)["info"]["training_tokenizer"]["model"] == f"{prefix}_tokenizer"
    with pytest.raises(InputError, match="which is on S3; copy it here and pass the copy with --tokenizer-model"):
        shards.check_shards(run(tmp_path, "--data-path", PLAIN, "--srp-sidecar", sidecar))


def test_mistakes_are_one_line(store, here, tmp_path, monkeypatch):
    missing, other = f"s3://{BUCKET}/plain/none.srp", f"s3://{BUCKET}/plain/d_text_document"
    store.upload_file(str(here / "c_text_document.idx"), BUCKET, "damaged/w.srp")
    cases = {
        f"{missing}: no such file": run(tmp_path, "--data-path", PLAIN, "--srp-sidecar", missing),
        f"{other}.bin: no such file": run(tmp_path, "--data-path", other),
        "not a reflection sidecar, or damaged": run(tmp_path, "--data-path", f"s3://{BUCKET}/damaged/w.srp"),
        f"{PLAIN}: cannot be mapped .* --no-mmap-bin-files and --object-storage-cache-path FOLDER, on this machine": (
            look_at(["--data-path", SIDECAR])
        ),
        f"{SIDECAR}: pass --object-storage-cache-path FOLDER": look_at(["--data-path", SIDECAR, "--no-mmap-bin-files"]),
        f"{PLAIN}: cannot be mapped into memory; pass --no-mmap-bin-files$": look_at(
            ["--data-path", PLAIN, "--object-storage-cache-path", str(tmp_path)]
        ),
        "no shard matches": None,
    }
    for said, args in cases.items():
        with pytest.raises(SrpError, match=said) as caught:
            if args:
                shards.check_shards(args)
            else:
                preprocess([*reflected(f"s3://{BUCKET}/plain/d*"), "--output-prefix", str(tmp_path / "d")])
        assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory"):
        shards.check_shards(
            look_at(
                ["--data-path", SIDECAR, "--object-storage-cache-path", str(tmp_path / "file"), "--no-mmap-bin-files"]
            )
        )


def test_a_store_that_refuses_and_a_driver_that_is_missing(here, tmp_path, monkeypatch):
    import s3fs

    asked = run(tmp_path, "--data-path", f"s3://{BUCKET}/private/w.srp")
    with refusing_store() as address, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(InputError, match="access is refused; set AWS_ACCESS_KEY_ID"):
            shards.check_shards(asked)
    s3fs.S3FileSystem.clear_instance_cache()
    for package in ("s3fs", "boto3"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(UsageError, match=rf"needs {package}, which is not .*pip install 'megatron-srp\[s3\]'"):
                shards.check_shards(run(tmp_path, "--data-path", SIDECAR))


def training_data(path: str, folder: Path, **changed) -> list[np.ndarray]:
    """The samples of a run of 30, as Megatron builds it."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    from megatron_srp import register

    register()
    made_with = read_header(path)["info"]["training_tokenizer"]
    eos = made_with["eos_id"]
    own = {"eod": eos, "eos": eos, "pad": eos, "vocab_size": made_with["vocab_size"]}
    config = GPTDatasetConfig(
        **{
            "random_seed": 1,
            "sequence_length": 64,
            "blend": ([path], None),
            "split": "1,0,0",
            "tokenizer": SimpleNamespace(**own, unique_identifiers={"class": "T"}),
            "reset_position_ids": False,
            "reset_attention_mask": False,
            "eod_mask_loss": False,
            "mmap_bin_files": "://" not in path,
            "object_storage_cache_path": str(folder / "indices"),
            **changed,
        }
    )
    dataset = BlendedMegatronDatasetBuilder(GPTDataset, [30, 0, 0], lambda: True, config).build()[0]
    dataset = pickle.loads(pickle.dumps(dataset.dataset)), dataset  # as in the process of a data loader
    np.testing.assert_array_equal(dataset[0][3], dataset[1].dataset[3])
    return [dataset[1][i]["tokens"].numpy() for i in range(30)]


def traced(path: str, folder: Path) -> list["Part"]:
    """The documents of the first sample of a run on a sidecar."""
    from megatron_srp.training.host.readings import CONFIG_FIELDS, Reading
    from megatron_srp.training.host.trace import Trace

    config = dict.fromkeys(CONFIG_FIELDS) | {"random_seed": 1, "sequence_length": 64, "split": "1,0,0"}
    config |= {"blend": ([path], None), "object_storage_cache_path": str(folder), "mmap_bin_files": "://" not in path}
    config |= {"mid_level_dataset_surplus": 0.005, "add_extra_token_to_sequence": True}
    start = Reading(0, 0, 4, "single", [30, 0, 0], config, {path: read_header(path)["fingerprint"]})
    return Trace([start]).parts(1, 0)


@pytest.mark.slow
def test_megatron_reads_the_reflections_of_a_shard_on_s3(here, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    local = training_data(str(here / "w9_c_text_document.srp"), tmp_path, path_to_cache=str(tmp_path / "local"))
    np.testing.assert_array_equal(training_data(SIDECAR, tmp_path), local)
    assert not list(Path.cwd().iterdir())
    on_disk = traced(str(here / "w9_c_text_document.srp"), tmp_path)
    assert all(part.source and part.verdicts for part in on_disk)
    assert traced(SIDECAR, tmp_path) == [replace(part, path=SIDECAR) for part in on_disk]
    with pytest.raises(UsageError, match="--object-storage-cache-path"):
        training_data(SIDECAR, tmp_path, object_storage_cache_path=None)
