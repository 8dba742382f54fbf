"""Pretraining that resumes knows what it was trained on: other data are refused, or meant and recorded."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from megatron_srp.checkpoints.megatron_checkpoint import MegatronCheckpoint
from megatron_srp.cli.preprocess import main
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.process.repair_tracker import TRACKER
from tests.distributed.jobs import LOADED, Forkserver, Run
from tests.helpers.plain_shards import build

SMALL = ["--srp-preset", "debug", "--num-layers", "2", "--hidden-size", "64", "--ffn-hidden-size", "192"]
SMALL += ["--seq-length", "64", "--micro-batch-size", "2", "--global-batch-size", "2", "--train-iters", "6"]
SMALL += ["--save-interval", "3", "--exit-interval", "3"]


@pytest.fixture(scope="module")
def folder(tokenizer_models, tmp_path_factory) -> Path:
    """A plain shard with two sidecars, and the same text in the tokens of another tokenizer."""
    folder = tmp_path_factory.mktemp("resumed")
    build(folder / "plain", load_tokenizer(*tokenizer_models["gpt2"]), None)
    build(folder / "other", load_tokenizer(*tokenizer_models["llama3"]), "heuristic")
    shard = str(folder / "plain_text_document")
    for words in ("8", "5"):
        argv = ["--input-shards", shard, "--guard", "heuristic", "--max-words", words]
        assert not main([*argv, "--output-prefix", str(folder / words)])
    return folder


def with_sidecar(folder: Path, words: str) -> list[str]:
    sidecar = str(folder / f"{words}_plain_text_document.srp")
    return ["--data-path", str(folder / "plain_text_document"), "--srp-sidecar", sidecar]


@pytest.fixture(scope="module")
def stopped(folder: Path, forkserver: Forkserver, tmp_path_factory) -> Path:
    """The checkpoints of a run that stopped after 3 of 6 steps."""
    run = Run(tmp_path_factory.mktemp("stopped"))
    finished = forkserver.run(1, [*SMALL, *with_sidecar(folder, "8"), *run.flags])
    assert finished.codes == [0], finished.log
    return run.folder / "checkpoints"


def resume(stopped: Path, tmp_path: Path) -> list[str]:
    checkpoints = str(shutil.copytree(stopped, tmp_path / "checkpoints"))
    return [*SMALL, "--load", checkpoints, "--save", checkpoints]


def recorded(checkpoints: Path) -> dict:
    args: Namespace = MegatronCheckpoint(checkpoints).args
    return args.srp_data


def refused(forkserver: Forkserver, argv: list[str]) -> str:
    finished = forkserver.run(1, argv)
    assert finished.codes == [2], finished.log
    assert "Traceback" not in finished.log
    (line,) = [line for line in finished.log.splitlines() if line.startswith("error")]
    return line


@pytest.mark.parametrize("allow", [[], ["--srp-allow-new-data"]])
def test_another_tokenizer(
    allow: list[str], folder: Path, stopped: Path, forkserver: Forkserver, tmp_path: Path
) -> None:
    argv = [*resume(stopped, tmp_path), "--data-path", str(folder / "other_text_document"), *allow]
    assert "was trained with the tokenizer" in refused(forkserver, argv)
    assert (tmp_path / "checkpoints" / TRACKER).read_text() == "3"


def test_another_sidecar(folder: Path, stopped: Path, forkserver: Forkserver, tmp_path: Path) -> None:
    argv = resume(stopped, tmp_path)
    line = refused(forkserver, [*argv, *with_sidecar(folder, "5")])
    assert "(iteration 3) was trained on other data: plain_text_document: --max-words 8 there and 5 here" in line

    finished = forkserver.run(1, [*argv, *with_sidecar(folder, "5"), "--srp-allow-new-data"])
    assert finished.codes == [0], finished.log
    assert LOADED.findall(finished.log)[0] == "3"
    (note,) = [line for line in finished.log.splitlines() if "was trained on other data, which" in line]
    assert note.startswith("note: --load ")
    (earlier,) = recorded(tmp_path / "checkpoints")["earlier"]
    was = recorded(stopped)
    assert earlier == {
        "until": 3,
        **{name: was[name] for name in ("tokenizer", "end_of_document", "reflection", "shards")},
    }


def test_the_same_data_elsewhere(folder: Path, stopped: Path, forkserver: Forkserver, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    finished = forkserver.run(1, [*resume(stopped, tmp_path), *with_sidecar(moved, "8")])
    assert finished.codes == [0], finished.log
    assert recorded(tmp_path / "checkpoints")["earlier"] == []


def test_a_newer_checkpoint(folder: Path, stopped: Path, forkserver: Forkserver, tmp_path: Path) -> None:
    argv = [*resume(stopped, tmp_path), *with_sidecar(folder, "8")]
    newest = tmp_path / "checkpoints" / "iter_0000003"
    (newest / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 2}))
    line = refused(forkserver, argv)
    assert f"{newest} is of a newer format: torch_dist 2, and this version reads up to 1; install" in line
