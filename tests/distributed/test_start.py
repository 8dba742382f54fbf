"""Mistakes found before the first step, in flags, checkpoints and ports: one line, no traceback, no hang."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.distributed.jobs import ASYNC, REPOSITORY, SAVE_INTERVAL, Corpus, Forkserver, Run, environment
from tests.helpers.commands import SRP


def refused(forkserver: Forkserver, world_size: int, argv: list[str]) -> str:
    finished = forkserver.run(world_size, argv)
    assert finished.codes[0] == 2, finished.log[-3000:]
    assert all(code in (2, -signal.SIGTERM) for code in finished.codes[1:])
    assert "Traceback" not in finished.log
    (line,) = (line for line in finished.log.splitlines() if line.startswith("error"))
    return line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--srp-preset", "debgu"], "unknown preset 'debgu'"),
        (
            ["--tensor-model-parallel-size", "3"],
            "the 4 attention heads of debug cannot be divided by it; possible: 1, 2, 4",
        ),
        (["--tensor-model-parallel-size", "4"], "2 GPUs are not a multiple of it; nearest possible: 4 GPUs"),
        (["--srp-precision", "fp8-tensorwise"], "needs a GPU with FP8, and none is visible"),
        (["--srp-dry-run", "0"], "--srp-dry-run 0: pass the number of GPUs"),
        (["--srp-precision", "fp8"], "--srp-precision 'fp8': choose from bf16, "),
        (["--async-save"], "--async-save needs --use-persistent-ckpt-worker"),
        (["--load", "nowhere"], "--load nowhere: no checkpoint there"),
    ],
)
def test_mistakes_in_flags(argv: list[str], message: str, corpus: Corpus, forkserver: Forkserver) -> None:
    line = refused(forkserver, 2, [*corpus.flags, *argv])
    assert message in line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-layers", "6"], "another model: --num-layers 4 there and 6 here"),
        (
            ["--srp-preset", "135m", "--num-layers", "4"],
            "--hidden-size 128 there and 576 here, --ffn-hidden-size 512 there and 1536 here",
        ),
        (["--rotary-base", "130000"], "10000 there and 130000 here. Pass --rotary-base 10000, as it was saved with"),
        (["--norm-epsilon", "1e-6"], "another model: --norm-epsilon 1e-05 there and 1e-06 here"),
        (["--train-iters", "60"], "another schedule: total samples"),
        (["--lr", "1e-3"], "another schedule: --lr 0.005 there and 0.001 here"),
        (["--use-distributed-optimizer"], "saved without --use-distributed-optimizer and this run is with"),
        (["--ckpt-step", "7"], "iter_0000007 does not exist; present: iter_0000015, iter_0000030"),
    ],
)
def test_a_checkpoint_of_another_run(
    argv: list[str], message: str, corpus: Corpus, uninterrupted: Run, forkserver: Forkserver
) -> None:
    resume = [*corpus.flags, "--tensor-model-parallel-size", "1", *uninterrupted.resume(SAVE_INTERVAL)]
    line = refused(forkserver, 2, [*resume, *argv])
    assert message in line


def test_checkpoints_that_a_run_would_write_over(
    corpus: Corpus, uninterrupted: Run, forkserver: Forkserver, tmp_path: Path
) -> None:
    saved = str(uninterrupted.folder / "checkpoints")
    shutil.copytree(saved, tmp_path / "start")
    line = refused(forkserver, 1, [*corpus.flags, "--load", str(tmp_path / "start"), "--save", saved])
    assert f"the run would start over and overwrite them. To resume pass --load {saved}" in line


def test_a_longer_run_goes_on_when_asked(
    corpus: Corpus, uninterrupted: Run, forkserver: Forkserver, tmp_path: Path
) -> None:
    argv = [*corpus.flags, *uninterrupted.resume(SAVE_INTERVAL), "--train-iters", "60", "--exit-interval", "16"]
    finished = forkserver.run(1, [*argv, "--override-opt-param-scheduler"])
    assert finished.codes == [0], finished.log[-3000:]


def test_a_checkpoint_whose_saving_was_stopped(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    folder = tmp_path / "iter_0000002"
    folder.mkdir()
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("2")
    line = refused(forkserver, 1, [*corpus.flags, "--load", str(tmp_path)])
    assert "iter_0000002 is incomplete: the save was interrupted" in line


def test_a_damaged_checkpoint(corpus: Corpus, uninterrupted: Run, forkserver: Forkserver, tmp_path: Path) -> None:
    source = uninterrupted.folder / "checkpoints" / f"iter_{SAVE_INTERVAL:07}"
    shutil.copytree(source, tmp_path / source.name)
    for file in (tmp_path / source.name).glob("*.distcp"):
        os.truncate(file, file.stat().st_size // 2)
    resume = ["--load", str(tmp_path), "--ckpt-step", str(SAVE_INTERVAL)]
    line = refused(forkserver, 1, [*corpus.flags, *resume])
    assert line.startswith(f"error: {tmp_path / source.name} is damaged: ")
    assert line.endswith("; pass an earlier --ckpt-step, or another folder")


@pytest.mark.parametrize("kind", [pytest.param([], marks=pytest.mark.exhaustive), ASYNC], ids=["sync", "async"])
def test_a_checkpoint_that_cannot_be_written(
    kind: list[str], corpus: Corpus, forkserver: Forkserver, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    for rank in range(2):  # where a file would go
        (tmp_path / "checkpoints" / "iter_0000002" / f"__{rank}_0.distcp").mkdir(parents=True)
    steps = ["--train-iters", "6", "--save-interval", "2", "--tensor-model-parallel-size", "2"]
    finished = forkserver.run(2, [*corpus.flags, *kind, *steps, *run.flags])
    assert finished.codes[0] == 1 and finished.codes[1] != 0, finished.log
    (line,) = (line for line in finished.log.splitlines() if line.startswith("error"))
    assert line.startswith(f"error: --save {tmp_path / 'checkpoints'}: a checkpoint could not be written: ")
    assert "Is a directory" in line
    assert "Traceback" not in finished.log


def test_a_port_that_another_job_has(corpus: Corpus) -> None:
    command = [*SRP, "train", *corpus.flags]
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        env = environment() | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        env["MASTER_PORT"] = str(other.getsockname()[1])
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env, cwd=REPOSITORY)
    assert done.returncode == 2
    assert done.stderr.startswith("error: MASTER_PORT ")
    assert done.stderr.count("\n") == 1
