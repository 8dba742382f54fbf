"""What happens before the first step: dry runs of every script and preset, and mistakes found in time."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.training.flags.precision import PRECISIONS
from megatron_srp.training.flags.presets import PRESETS
from megatron_srp.training.flags.rank_flags import split_rank_flags
from tests.distributed.jobs import ASYNC, REPOSITORY, SAVE_INTERVAL, Corpus, Forkserver, Run, environment
from tests.helpers.commands import SRP
from tests.helpers.sft_shards import chat_shard

EXAMPLES = REPOSITORY / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("pretrain_*.sh") if path.name != "pretrain_common.sh")
SCRIPTS += ["sft.sh", "finetune.sh"]
NO_DATA = ["--mock-data", "--tokenizer-type", "NullTokenizer", "--vocab-size", "49152"]
GPUS = [8, 16, 32, 64, 128, 256, 512, 1024]
TOO_FEW = {("32b", 8), ("70b", 8), ("70b", 16), ("30b-a3b", 8), ("8x7b", 8)}
# For experts in FP8 Megatron asks for Transformer Engine, in a dry run too.
COMBINATIONS = [
    (name, precision)
    for name in PRESETS
    for precision in PRECISIONS
    if precision == "bf16" or not PRESETS[name].experts
]


def script(name: str, *argv: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one of the examples with this Python."""
    env = environment() | {"PYTHON": sys.executable, "GPUS_PER_NODE": "8"} | settings
    return subprocess.run(["bash", EXAMPLES / name, *argv], capture_output=True, text=True, timeout=600, env=env)


def dry_run(forkserver: Forkserver, argv: list[str], gpus: int) -> str:
    finished = forkserver.run(1, [*argv, "--srp-dry-run", str(gpus)])
    assert finished.codes == [0], finished.log[-2000:]
    assert "dry run: every flag is valid, nothing was started" in finished.log
    return finished.log


# Dry runs


def test_the_dry_run_of_the_papers_model() -> None:
    done = script("pretrain_1p7b.sh", "--dry-run", NNODES="4", MASTER_ADDR="node0")
    assert done.returncode == 0, done.stderr
    assert "--nnodes 4 --node-rank 0 --master-addr node0" in done.stdout
    assert "--fp8-recipe tensorwise" in done.stdout
    assert "32 GPUs: TP 1 PP 1 CP 1 DP 32" in done.stdout
    assert done.stderr == "note: DATA is not set: checked with Megatron's mock data instead of shards\n"


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("nodes", [1, 16])
def test_every_flag_of_every_script(name: str, nodes: int, forkserver: Forkserver) -> None:
    done = script(name, "--print-command", NNODES=str(nodes), MASTER_ADDR="node0", WANDB_PROJECT="p", EXIT_MINUTES="9")
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout)
    ranks, flags = split_rank_flags(command[command.index("train") + 1 :])
    assert ranks is not None and ranks.total == 8 * nodes
    log = dry_run(forkserver, flags, ranks.total)
    assert "--wandb-project p" in log
    assert "--exit-duration-in-mins 9" in log


def slurm_job(folder: Path) -> dict[str, str]:
    """The environment of a job on one node, with stubs of Slurm's commands in `folder`."""
    for name, text in {"scontrol": "echo node0", "srun": '[ "$2" = --label ] && exec "${@:3}"'}.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node0", "SLURM_JOB_ID": "7", "SLURM_NNODES": "1"}
    return slurm | {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(("allocated", "minutes"), [(24 * 60, 24 * 60 - 15), (10, 8)])
def test_a_slurm_job_saves_before_its_end(allocated: int, minutes: int, tmp_path: Path) -> None:
    times = {"SLURM_JOB_START_TIME": "1000", "SLURM_JOB_END_TIME": str(1000 + 60 * allocated)}
    slurm = slurm_job(tmp_path) | times
    done = script("slurm/pretrain.sbatch", str(EXAMPLES / "pretrain_1p7b.sh"), "--print-command", **slurm)
    assert done.returncode == 0, done.stderr
    assert f"--exit-duration-in-mins {minutes} " in done.stdout


def test_a_slurm_job_whose_start_is_unknown(tmp_path: Path) -> None:
    slurm = slurm_job(tmp_path) | {"SLURM_JOB_END_TIME": "9000"}
    done = script("slurm/pretrain.sbatch", str(EXAMPLES / "pretrain_1p7b.sh"), "--print-command", **slurm)
    assert done.returncode == 0, done.stderr
    assert "--exit-duration-in-mins" not in done.stdout


def test_a_script_finds_shards_that_are_missing() -> None:
    done = script("pretrain_1p7b.sh", "--dry-run", DATA="0.5 nowhere 0.5 else")
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere.bin and nowhere.idx do not exist")


def test_the_dry_run_of_post_training(tokenizer_models: dict[str, Any], tmp_path: Path) -> None:
    prefix = chat_shard(tmp_path, tokenizer_models["gpt2"][1], 200)
    settings = {"DATA": prefix, "VALID": prefix, "CHECKPOINT": "out/run/checkpoints", "PRESET": "135m"}
    done = script("sft.sh", "--dry-run", **settings)
    assert done.returncode == 0, done.stderr
    # One for each learned answer of the 200 conversations.
    assert re.search(r"note: 301 examples in \d\d sequences of 2,048 an epoch \(\d.*% full\)", done.stdout)
    for flag in ("--train-iters 1", "--srp-sft-epochs 2", "--eval-iters 1", "--calculate-per-token-loss"):
        assert f"\n{flag}\n" in done.stdout
    assert "8 GPUs: TP 1 PP 1 CP 1 DP 8" in done.stdout
    done = script("sft.sh", **settings | {"CHECKPOINT": ""})
    assert (done.returncode, done.stderr[:30]) == (2, "error: CHECKPOINT is not set: ")


@pytest.mark.parametrize(("preset", "precision"), COMBINATIONS)
def test_presets_and_precisions(preset: str, precision: str, forkserver: Forkserver) -> None:
    argv = ["--srp-preset", preset, "--srp-precision", precision, "--srp-layout", "auto", *NO_DATA]
    dry_run(forkserver, argv, 64)


@pytest.mark.exhaustive
@pytest.mark.parametrize("gpus", GPUS)
@pytest.mark.parametrize(("preset", "precision"), COMBINATIONS)
def test_every_recommended_layout(preset: str, precision: str, gpus: int, forkserver: Forkserver) -> None:
    if (preset, gpus) not in TOO_FEW:
        argv = ["--srp-preset", preset, "--srp-precision", precision, "--srp-layout", "auto", *NO_DATA]
        dry_run(forkserver, argv, gpus)


# Mistakes: one line, no traceback, no hang


def refused(forkserver: Forkserver, world_size: int, argv: list[str]) -> str:
    started = time.monotonic()
    finished = forkserver.run(world_size, argv)
    assert time.monotonic() - started < 300  # far below torch's time limits for a rank that does not come
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


def test_the_last_line_of_a_script_is_the_mistake(tmp_path: Path) -> None:
    """Not the traceback and the table that torchrun prints after it."""
    settings = {"PRESET": "debug", "DATA": "nowhere", "CHECKPOINT": "x", "GPUS_PER_NODE": "2"}
    done = script("sft.sh", **settings, OUT=str(tmp_path))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("error: nowhere.bin: no such file")
    assert sum(line.startswith("error") for line in lines) == 1 and "Traceback" not in done.stderr


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DATA": ""}, "error: DATA is not set"),
        ({"NNODES": "two"}, "error: NNODES=two: must be a whole number"),
        ({"NNODES": "2", "NODE_RANK": "2"}, "error: NODE_RANK=2: 0 to 1"),
        ({"NNODES": "2", "DATA": "x"}, "error: MASTER_ADDR is not set"),
    ],
)
def test_mistakes_in_the_settings_of_a_script(settings: dict[str, str], message: str) -> None:
    env = {"MASTER_ADDR": ""} | settings
    done = script("pretrain_135m.sh", **env)
    assert done.returncode == 2
    assert done.stderr.startswith(message)


def test_a_script_checks_its_nodes_first(tmp_path: Path) -> None:
    settings = {"PRESET": "debug", "DATA": "x", "CHECKPOINT": "x", "NNODES": "2", "MASTER_ADDR": "nowhere.invalid"}
    done = script("sft.sh", **settings, OUT=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        "error: --master-addr nowhere.invalid: no such host here; pass node 0's address, or its full name\n"
    )


def test_a_script_does_not_start_where_the_job_cannot_run(tmp_path: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    done = script("pretrain_1p7b.sh", DATA="x", OUT=str(tmp_path / "out"))
    assert done.returncode == 1
    assert "error: a fp8-tensorwise job cannot run here: GPUs: none is visible" in done.stderr
    assert not (tmp_path / "out").exists()
