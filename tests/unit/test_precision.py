"""`--srp-precision`, and which devices can run what."""

import dataclasses
import socket

import pytest

from megatron_srp.errors import UsageError
from megatron_srp.training.checks import devices
from megatron_srp.training.checks.devices import Devices, check_devices
from megatron_srp.training.flags.command_line import look_at
from megatron_srp.training.flags.precision import PRECISIONS, check_precision
from megatron_srp.training.layout.model_from_flags import layout_of, model_of
from megatron_srp.training.plan import expand_flags
from megatron_srp.training.process.extensions import NOT_INSTALLED

H100 = Devices(8, "NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30, (12, 9))
OLD_CUDA = dataclasses.replace(H100, cuda=(12, 8))
A100 = Devices(8, "NVIDIA A100-SXM4-80GB", (8, 0), 80 * 2**30, (12, 9))
NONE = Devices(0)
BROKEN = "does not load (OSError: no libnccl)"


def check(*argv: str, gpus: int = 8) -> list[str]:
    args = look_at(expand_flags(list(argv), gpus))
    return check_precision(args, model_of(args), layout_of(args, gpus))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_recipes_pass_their_own_checks(precision: str) -> None:
    assert check("--srp-preset", "1p7b", "--srp-precision", precision, "--srp-layout", "auto") == []


def test_the_users_flags_win() -> None:
    argv = expand_flags(["--srp-precision", "fp8-delayed", "--fp8-amax-history-len", "16"])
    assert argv.count("--fp8-amax-history-len") == 1
    assert argv[argv.index("--fp8-amax-history-len") + 1] == "16"


TENSORWISE = ("--srp-precision", "fp8-tensorwise")
BLOCKWISE = ("--srp-precision", "fp8-blockwise")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((*TENSORWISE, "--transformer-impl", "local"), "--transformer-impl local has no FP8"),
        ((*TENSORWISE, "--fp16"), "--fp16 cannot be used with FP8"),
        ((*TENSORWISE, "--fp8-recipe", "mxfp8"), "needs a Blackwell GPU"),
        ((*TENSORWISE, "--fp8-recipe", "delayed"), "cannot be used with delayed scaling"),
        (("--fp8-format", "hybrid", "--fp8-param-gather"), "without the overlaps it has given NaN"),
        (("--fp8-param-gather",), "--fp8-param-gather needs FP8"),
    ],
)
def test_combinations_that_are_refused(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check("--srp-preset", "1p7b", *argv)


def test_pipeline_with_recomputation_and_accumulation() -> None:
    argv = ["--srp-preset", "8b", *TENSORWISE, "--pipeline-model-parallel-size", "2"]
    assert check(*argv) == []
    with pytest.raises(UsageError, match="issue 607"):
        check(*argv, "--recompute-granularity", "full")
    check(*argv, "--recompute-granularity", "full", "--global-batch-size", "4")  # one micro-batch: no accumulation


def test_sides_of_matrices() -> None:
    with pytest.raises(UsageError, match="queries per rank is 40"):
        check(
            "--srp-preset", "1p7b", *TENSORWISE, "--hidden-size", "1280", "--tensor-model-parallel-size", "32", gpus=32
        )


def test_small_models_get_a_note() -> None:
    (note,) = check("--srp-preset", "135m", *TENSORWISE)
    assert "hidden size of 576" in note


@pytest.mark.parametrize(
    ("argv", "found", "no_engine", "message"),
    [
        (TENSORWISE, NONE, None, "--srp-precision fp8-tensorwise needs a GPU with FP8, and none is visible"),
        (TENSORWISE, A100, None, "NVIDIA A100-SXM4-80GB has none: give --srp-precision bf16"),
        (
            TENSORWISE,
            H100,
            NOT_INSTALLED,
            "needs Transformer Engine, which is not installed: install it .pip install --no-build-isolation",
        ),
        (TENSORWISE, H100, BROKEN, r"which does not load \(OSError: no libnccl\): install one built for the PyTorch"),
        (
            ("--bf16",),
            H100,
            BROKEN,
            r"Transformer Engine does not load \(OSError: no libnccl\).*--transformer-impl local",
        ),
        (BLOCKWISE, OLD_CUDA, None, "needs Hopper or newer and CUDA 12.9; this is NVIDIA H100 .* with CUDA 12.8"),
        (("--fp8-format", "hybrid"), A100, None, "--fp8-format hybrid needs a GPU with FP8"),
        (("--bf16",), H100, NOT_INSTALLED, "Megatron's layers are its own: install it .* --transformer-impl local"),
    ],
)
def test_devices_that_cannot(argv: tuple[str, ...], found: Devices, no_engine: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_devices(look_at(expand_flags(list(argv))), found, no_engine)


@pytest.mark.parametrize(
    ("argv", "found", "no_engine"),
    [
        (TENSORWISE, OLD_CUDA, None),
        (BLOCKWISE, H100, None),
        (("--bf16",), A100, None),
        (("--bf16",), NONE, NOT_INSTALLED),
        (("--bf16", *devices.LOCAL_LAYERS), H100, BROKEN),
    ],
)
def test_devices_that_can(argv: tuple[str, ...], found: Devices, no_engine: str | None) -> None:
    check_devices(look_at(expand_flags(list(argv))), found, no_engine)


def test_layers_where_those_of_transformer_engine_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    local = list(devices.LOCAL_LAYERS)
    for failure, flags, added in ((BROKEN, ["--bf16"], local), (None, ["--bf16"], []), (None, [], local)):
        monkeypatch.setattr(devices, "engine_failure", lambda failure=failure: failure)
        assert devices.layer_flags(flags) == added


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "9")
    with pytest.raises(UsageError, match=r"9 ranks on this machine and 8 GPUs visible.*--nproc-per-node 8"):
        check_devices(look_at([]), H100, None)
    check_devices(look_at([]), NONE, None)  # on a CPU any number


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(UsageError, match=r"cannot be listened on .*set MASTER_PORT to a free port"):
            devices.check_port()
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")  # torchrun listens itself
        devices.check_port()
