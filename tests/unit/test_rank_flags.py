"""`srp train --nproc-per-node N`: which flags are torchrun's, and the mistakes that are found before it starts."""

from pathlib import Path

import pytest

from megatron_srp import cli
from megatron_srp.errors import UsageError
from megatron_srp.training import launch
from megatron_srp.training.flags.rank_flags import Ranks, split_rank_flags

NODES = ["--nnodes", "4", "--node-rank", "3", "--master-addr", "node0"]


def test_the_flags_of_the_training_are_left() -> None:
    ranks, flags = split_rank_flags(["--lr", "1", "--nproc-per-node=2", "--data-path", "1", "a", "1", "b"])
    assert ranks == Ranks(2) and flags == ["--lr", "1", "--data-path", "1", "a", "1", "b"]
    assert split_rank_flags(["--lr", "1"]) == (None, ["--lr", "1"])


def test_one_node_takes_a_free_port_and_several_meet_at_the_first() -> None:
    assert Ranks(8).to_torchrun() == ["--nproc-per-node", "8", "--standalone"]
    ranks, _ = split_rank_flags(["--nproc-per-node", "8", *NODES])
    assert ranks is not None and ranks.total == 32
    assert ranks.to_torchrun() == ["--nproc-per-node", "8", *NODES, "--master-port", "29500"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (NODES, "--nnodes needs --nproc-per-node N"),
        (["--nproc-per-node", "0"], "--nproc-per-node 0: pass a number of at least 1"),
        (["--nproc-per-node", "two"], "--nproc-per-node: invalid int value: 'two'"),
        (["--nproc-per-node", "2", "--nnodes", "0"], "--nnodes 0: pass a number of at least 1"),
        (["--nproc-per-node", "2", "--nnodes", "2"], "--nnodes 2 needs --master-addr HOST"),
        (["--nproc-per-node", "2", *NODES, "--node-rank", "4"], "--node-rank 4: pass 0 to 3 with --nnodes 4"),
        (["--nproc-per-node", "2", "--srp-preset", "nope"], "unknown preset 'nope'"),
        (["--nproc-per-node", "2", "--mock-data", "--sft"], "--sft cannot be used here"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "torchrun", lambda argv: pytest.fail(f"started {argv}"))
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", *argv])
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_a_script_starts_on_ranks_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "torchrun", lambda argv: started.append(argv) or 0)
    started: list[list[str]] = []
    script = tmp_path / "pretrain_gpt.py"
    script.write_text("")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["run", "--nproc-per-node", "2", str(script), "--lr", "1"])
    expected = ["--nproc-per-node", "2", "--standalone", "-m", "megatron_srp.run", str(script), "--lr", "1"]
    assert started == [expected]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", "--nproc-per-node", "2", str(tmp_path / "other.py")])
    assert started == [expected]


def test_a_rank_does_not_start_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(UsageError, match="torchrun has started this process as a rank"):
        launch.train_on(Ranks(2), ["--mock-data"])


def test_the_ranks_get_the_users_own_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "torchrun", lambda argv: started.append(argv) or 7)
    started: list[list[str]] = []
    mock = ["--mock-data", "--tokenizer-type", "NullTokenizer", "--vocab-size", "99", "--srp-preset", "debug"]
    with pytest.raises(SystemExit, match="7"):
        cli.main(["train", *mock, "--nproc-per-node", "1"])
    assert started == [["--nproc-per-node", "1", "--standalone", "-m", "megatron_srp", "train", *mock]]
