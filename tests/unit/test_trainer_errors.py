"""What Megatron and torch raise, in one line that says what to do."""

import io
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from megatron_srp.errors import OutputError, UsageError
from megatron_srp.training.checks.outputs import check_outputs
from megatron_srp.training.flags.command_line import look_at
from megatron_srp.training.process import exits
from megatron_srp.training.process.errors import explain_load_errors, explained
from megatron_srp.training.process.exits import AnotherRankEnded, ThisRankFailed
from megatron_srp.training.process.failures import Failed, end_like, find_cause
from megatron_srp.training.process.write_errors import find_reason, raise_errors


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("Error\n\nMissing key in checkpoint state_dict: decoder.layers.mlp._extra_state/shard_0_2."),
            "Missing key .*; it was written without Transformer Engine, .* --dist-ckpt-strictness log_unexpected$",
        ),
        (
            AssertionError("OptimizerParamScheduler: class input value 1 and checkpoint value 2 do not match"),
            "use the new ones with --override-opt-param-scheduler$",
        ),
        (
            CheckpointException("load", {}),
            "see rank 0's error; pass the model and layout flags .*, or an earlier --ckpt-step if it is damaged$",
        ),
        (SystemExit(0), "see the error above; pass the model and layout flags of the run that wrote it$"),
        (ValueError(), "load it: ValueError; pass the model"),
    ],
)
def test_a_checkpoint_that_does_not_load(error: BaseException, line: str) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(UsageError, match=line) as caught:
        explain_load_errors(fails, lambda: "out/run")()
    assert str(caught.value).startswith("--load out/run: Megatron cannot load it: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:51234",
        "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 60000ms for recv operation",
    ],
)
def test_a_rank_that_is_gone(message: str) -> None:
    with pytest.raises(AnotherRankEnded, match="another rank has ended"), explained(None):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="shape"), explained(None):
        raise RuntimeError("shape mismatch")


ALONE: dict[str, tuple[Exception, str]] = {
    "disk": (OSError(28, "No space left on device", "out/x"), "out/x: No space left on device; remove the cause, then"),
    "read-only": (OSError(30, "Read-only file system"), "^out: Read-only file system; remove the cause"),
    "reader": (
        RuntimeError("DataLoader worker (pid 2751) is killed by signal: Killed. "),
        "a process that reads data is killed by signal: Killed; has the machine run out of memory",
    ),
    "reader's exit": (
        RuntimeError("DataLoader worker (pid(s) 27, 28) exited unexpectedly"),
        "a process that reads data exited unexpectedly; ",
    ),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_rank_that_fails_alone(name: str) -> None:
    error, line = ALONE[name]
    with pytest.raises(ThisRankFailed, match=line), explained("out"):
        raise error
    with pytest.raises(FileNotFoundError), explained("out"):
        raise FileNotFoundError(2, "no such file")


def write_to_a_full_disk(fails: bool = True) -> tuple[int, object]:
    """As Megatron's writer: torch's archive on a file, and the error as a result."""
    try:
        with Path("/dev/full" if fails else os.devnull).open("wb", buffering=0) as file:
            torch.save(torch.zeros(1000), file)
    except Exception as error:
        return 0, error
    return 0, ["written"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_named() -> None:
    assert find_reason(write_to_a_full_disk()[1]) == "No space left on device"  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"^No space left on device$") as caught:
        raise_errors(write_to_a_full_disk)()
    assert raise_errors(write_to_a_full_disk)(fails=False) == (0, ["written"])
    # What Megatron makes of it, on the way to the rank.
    failure = RuntimeError(f"Worker failure: An error is caught while starting worker 0, error: {caught.value}")
    error = CheckpointException("write", {0: (failure, None)})
    line = "--save out: a checkpoint could not be written: No space left on device; remove the cause"
    with pytest.raises(OutputError, match=line), explained("out"):
        raise error


def test_reasons_that_the_system_did_not_give() -> None:
    assert find_reason(ValueError("one\n two")) == "one two"
    assert find_reason(KeyError()) == "KeyError"
    assert find_reason(io.UnsupportedOperation("write")) == "write"
    assert find_reason(FileNotFoundError(2, "No such file", "x/y")) == "No such file: x/y"


def test_a_folder_that_cannot_be_written_is_found_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for flag in ("--save", "--tensorboard-dir", "--data-cache-path"):
        check_outputs(look_at([flag, str(tmp_path / "new" / "folder")]))
        with pytest.raises(OutputError, match=f"^{flag} .*/file/new cannot be written: .*/file: Not a directory; "):
            check_outputs(look_at([flag, str(tmp_path / "file" / "new")]))
        with pytest.raises(OutputError, match=f"^{flag} /proc/new cannot be written: /proc: "):
            check_outputs(look_at([flag, "/proc/new"]))
    check_outputs(look_at(["--save", "s3://bucket/run"]))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_ranks_wait_as_long_again_for_the_first_to_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits.time, "monotonic", lambda: exits._STARTED + 70.0)
    assert exits._seconds_for_rank_0(UsageError("wrong")) == 70.0
    assert exits._seconds_for_rank_0(AnotherRankEnded()) == exits.SECONDS_FOR_RANK_0
    monkeypatch.setattr(exits.time, "monotonic", lambda: exits._STARTED + 1e5)
    assert exits._seconds_for_rank_0(UsageError("wrong")) == exits.MOST_SECONDS_FOR_RANK_0
    monkeypatch.setattr(exits.time, "monotonic", lambda: exits._STARTED + 0.5)
    assert exits._seconds_for_rank_0(UsageError("wrong")) == exits.SECONDS_FOR_RANK_0


def failures(*codes: int) -> list[tuple[int, SimpleNamespace]]:
    said = {"message": "error: no room"}
    return [
        (rank, SimpleNamespace(exitcode=code, timestamp=7, error_file_data=said if code > 0 else None))
        for rank, code in enumerate(codes)
    ]


def test_the_launcher_ends_like_the_rank_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    # torchrun ended the first for the second, within a second
    assert find_cause(failures(-15, 2)) == Failed(1, 2, "no room")
    assert find_cause(failures(1, -9)) == Failed(0, 1, "no room")
    assert find_cause(failures(-15, -15)) == Failed(0, -15, "ended by SIGTERM")
    assert end_like(Failed(1, 2, "no room")) == 2
    assert capsys.readouterr().err == ""  # the rank has said why
    assert end_like(find_cause(failures(-9))) == 137
    assert capsys.readouterr().err == "error: rank 0 was ended by SIGKILL; has the machine run out of memory?\n"
