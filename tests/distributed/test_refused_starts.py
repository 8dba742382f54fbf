"""Two ranks whose start is refused: one line, from rank 0, and neither is left waiting (`pytest -rP` prints the seconds).

The host is another release, or a program registers too late or names data that it cannot read.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from megatron_srp.cli.preprocess import main as preprocess
from tests.distributed.jobs import REPOSITORY, TORCHRUN, environment
from tests.helpers.commands import SRP

RANKS = ["--nproc-per-node", "2"]
# Its ranks meet before the datasets are built, and would again after.
PROGRAM = """
import sys
from types import SimpleNamespace

import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset

import megatron_srp

torch.distributed.init_process_group("gloo")
kind, blend = (GPTDataset, (sys.argv[1:], None)) if sys.argv[1:] else (MockGPTDataset, None)
if blend:
    megatron_srp.register()
tokenizer = SimpleNamespace(eod=0, eos=0, pad=-1, vocab_size=600, unique_identifiers={})
resets = {"reset_position_ids": False, "reset_attention_mask": False, "eod_mask_loss": False}
config = GPTDatasetConfig(
    random_seed=1, sequence_length=8, tokenizer=tokenizer, blend=blend, split="1,0,0" if blend else None, **resets
)
built = BlendedMegatronDatasetBuilder(kind, [2, 0, 0], lambda: True, config).build()
megatron_srp.register()
torch.distributed.barrier()
"""


def assert_refused(command: list[str], message: str, **variables: str) -> None:
    """The output ends when the last process that has it ends."""
    began = time.monotonic()
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=REPOSITORY, env=environment() | variables
    )
    print(f"ended after {time.monotonic() - began:.1f} s, with {ended.returncode}")
    by_torchrun = command[:3] == TORCHRUN
    assert ended.returncode == (1 if by_torchrun else 2), ended.stderr
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("error"))
    assert line.startswith("error: ") and message in line
    assert (ended.stdout + ended.stderr).count("Traceback") == by_torchrun  # its own, in its report


@pytest.fixture(params=["0.18.1", "0.21.0"])
def other_host(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A release that cannot even be imported here, as old ones cannot with a new torch, and a script of its checkout."""
    core = tmp_path / "megatron" / "core"
    core.mkdir(parents=True)
    (core / "package_info.py").write_text(f'__version__ = "{request.param}"\n')
    (core / "__init__.py").write_text("raise RuntimeError('this torch is too new')\n")
    (tmp_path / "pretrain.py").write_text("import megatron.core\n")
    return tmp_path


def test_another_release_of_the_host(other_host: Path) -> None:
    message = "is installed; the hooks are written for 0.19 and 0.20. Install it with: pip install"
    assert_refused([*SRP, "run", *RANKS, str(other_host / "pretrain.py")], message)
    mock = ["--srp-preset", "debug", "--mock-data", "--tokenizer-type", "NullTokenizer", "--vocab-size", "600"]
    paths = os.pathsep.join([str(other_host), str(REPOSITORY)])
    assert_refused([*SRP, "train", *RANKS, *mock], message, PYTHONPATH=paths)


@pytest.fixture
def replaced_shard(two_corpora: Path, tokenizer_models, tmp_path: Path) -> str:
    """A sidecar whose shard was replaced by another."""
    shard, (kind, model) = tmp_path / "text_document", tokenizer_models["gpt2"]
    copy(two_corpora / "plain_a_text_document", shard)
    made = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--output-prefix", str(tmp_path / "w20")]
    preprocess(["--input-shards", str(shard), "--guard", "heuristic", "--max-words", "20", *made])
    copy(two_corpora / "plain_b_text_document", shard)
    return str(tmp_path / "w20_text_document.srp")


def copy(source: Path, target: Path) -> None:
    for suffix in (".bin", ".idx"):
        shutil.copy(f"{source}{suffix}", f"{target}{suffix}")


# test_script_runs.py has the two of the data under `srp run`, in a fraction of the time.
@pytest.mark.parametrize(
    "mistake",
    [
        "registers too late",
        pytest.param("another shard's sidecar", marks=pytest.mark.exhaustive),
        pytest.param("neither shard nor sidecar", marks=pytest.mark.exhaustive),
    ],
)
def test_a_program_under_torchrun(mistake: str, replaced_shard: str, tmp_path: Path) -> None:
    data, message = {
        "registers too late": ([], "megatron_srp.register() is called after datasets were built"),
        "another shard's sidecar": ([replaced_shard], "made for the shard text_document with other content"),
        "neither shard nor sidecar": ([str(tmp_path / "nothing")], "nothing.bin and "),
    }[mistake]
    (tmp_path / "program.py").write_text(PROGRAM)
    assert_refused([*TORCHRUN, *RANKS, str(tmp_path / "program.py"), *data], message, PYTHONPATH=str(REPOSITORY))
