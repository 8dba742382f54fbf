"""`srp check cluster`: a node's place from flags and variables, and mistakes; nothing is started."""

import os
from pathlib import Path

import pytest

from megatron_srp.cli import check_cluster
from megatron_srp.errors import UsageError
from megatron_srp.training.flags.rank_flags import Ranks
from megatron_srp.training.preflight.nodes_of_slurm import find_ranks

VARIABLES = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_NNODES", "SLURM_NODEID", "SLURM_JOB_NODELIST")
SLURM = {"SLURM_NNODES": "4", "SLURM_NODEID": "3", "SLURM_JOB_NODELIST": "node[0-3]"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node0\necho node1\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("variables", "argv", "ranks"),
    [
        ({}, [], Ranks(8)),
        (SLURM, [], Ranks(8, 4, 3, "node0")),
        (SLURM | {"MASTER_ADDR": "a", "MASTER_PORT": "25000", "NODE_RANK": "1"}, [], Ranks(8, 4, 1, "a", 25000)),
        (SLURM, ["--nnodes", "2", "--node-rank", "0", "--master-addr", "b"], Ranks(8, 2, 0, "b")),
    ],
)
def test_the_place_of_a_node(
    variables: dict[str, str], argv: list[str], ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    args = check_cluster.build_parser().parse_args(["--nproc-per-node", "8", *argv])
    assert find_ranks(args) == ranks


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "debug"], "^--preset needs --out DIR"),
        (["--preset", "debgu", "--out", "x"], "^--preset: unknown preset 'debgu'; "),
        (["--out", "s3://bucket/run"], "^--out s3://bucket/run: pass a folder on a file system"),
        (["--nnodes", "2", "--nproc-per-node", "1"], "^--nnodes 2 needs --master-addr HOST"),
        (["--checkpoints", "0"], "^--checkpoints"),
    ],
)
def test_mistakes(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_cluster.main(argv)


def test_a_variable_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNODES", "two")
    with pytest.raises(UsageError, match=r"^NNODES=two: must be a whole number"):
        check_cluster.main(["--nproc-per-node", "1"])
