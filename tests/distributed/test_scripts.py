"""The scripts of examples/, and dry runs of every script and preset."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.training.flags.precision import PRECISIONS
from megatron_srp.training.flags.presets import PRESETS
from megatron_srp.training.flags.rank_flags import split_rank_flags
from tests.distributed.jobs import REPOSITORY, Forkserver, environment
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


def test_the_last_line_of_a_script_is_the_mistake(tmp_path: Path) -> None:
    """Not the traceback and the table that torchrun prints after it."""
    settings = {"PRESET": "debug", "DATA": "nowhere", "CHECKPOINT": "x", "GPUS_PER_NODE": "2"}
    done = script("sft.sh", **settings, OUT=str(tmp_path))
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("error: nowhere.bin: no such file")
    assert sum(line.startswith("error") for line in lines) == 1 and "Traceback" not in done.stderr


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
