"""Flags: presets give way to the command line, and what would break the method is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_srp.errors import SrpError, UsageError, explain_parse_error
from megatron_srp.training.flags.command_line import LOOKED_AT, look_at
from megatron_srp.training.flags.defaults import EVAL_INTERVAL, add_defaults
from megatron_srp.training.flags.refused import REFUSED, check_flags, check_pad_token
from megatron_srp.training.layout.model_from_flags import model_of
from megatron_srp.training.plan import expand_flags


def check(*argv: str) -> list[str]:
    return check_flags(look_at(list(argv)))


# Presets and the user's flags


@pytest.mark.parametrize("given", [["--lr", "1"], ["--lr=1"]])
def test_the_users_flags_win(given: list[str]) -> None:
    expanded = expand_flags(["--srp-preset", "debug", *given])
    assert [token for token in expanded if token.partition("=")[0] == "--lr"] == [given[0]]


def test_no_preset_changes_nothing() -> None:
    """But an interval of evaluations, without which Megatron fails at its first."""
    assert expand_flags(["--lr", "1"]) == [*EVAL_INTERVAL, "--lr", "1"]


@pytest.mark.parametrize(
    ("given", "dropped"),
    [
        (["--train-samples", "100"], "--train-iters"),
        (["--lr-warmup-iters", "10"], "--lr-warmup-fraction"),
        (["--fp16"], "--bf16"),
        (["--fp16"], "--cross-entropy-loss-fusion"),
        (["--deterministic-mode"], "--cross-entropy-loss-fusion"),
        (["--no-cross-entropy-loss-fusion"], "--cross-entropy-loss-fusion"),
    ],
)
def test_a_flag_drops_the_presets_alternative(given: list[str], dropped: str) -> None:
    assert dropped in expand_flags(["--srp-preset", "135m"])
    assert dropped not in expand_flags(["--srp-preset", "135m", *given])


def test_a_default_with_several_values_is_dropped_whole() -> None:
    defaults = ["--a", "1", "2", "--b", "--c", "3"]
    assert add_defaults(defaults, ["--a", "9"]) == ["--b", "--c", "3", "--a", "9"]


def test_a_value_of_the_wrong_type_is_one_line() -> None:
    with pytest.raises(UsageError, match="--train-iters: invalid int value: 'many'"):
        expand_flags(["--srp-preset", "debug", "--train-iters", "many"])


def test_a_misspelled_flag_is_named() -> None:
    error = explain_parse_error("unrecognized arguments: --lr-decay-stile WSD", ["--lr-decay-style"])
    assert str(error) == ("unrecognized arguments: --lr-decay-stile WSD; did you mean '--lr-decay-style'?")


# Flags refused


@pytest.mark.parametrize("flag", ["--reset-position-ids", "--reset-attention-mask"])
def test_an_eos_inside_a_document_must_not_cut_the_context(flag: str) -> None:
    with pytest.raises(UsageError, match=rf"{flag}.*inside a document.*Leave it out"):
        check(flag)


@pytest.mark.parametrize(
    "argv",
    [
        ["--sft"],
        ["--fim-data"],
        ["--yaml-cfg", "a.yaml"],
        ["--hybrid-context-parallel"],
    ],
)
def test_what_this_entry_point_would_ignore_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError, match=f"{argv[0]} cannot be used here"):
        check(*argv)


NOT_FOR_CONVERSATIONS = [
    ["--dataloader-inter-document-masking"],
    ["--context-parallel-size", "2"],
    ["--mtp-num-layers", "1"],
]


@pytest.mark.parametrize("argv", NOT_FOR_CONVERSATIONS)
def test_pretraining_allows_what_conversations_do_not(argv: list[str]) -> None:
    assert check(*argv) == []
    with pytest.raises(UsageError, match=f"{argv[0]} cannot be used here: conversations are"):
        check(*argv, "--srp-sft", "PREFIX")


def test_harmless_flags_pass() -> None:
    assert check("--context-parallel-size", "1", "--swiglu", "--lr", "1") == []
    assert check("--context-parallel-size", "1", "--srp-sft", "PREFIX") == []


def test_eod_mask_loss_is_allowed_with_a_note() -> None:
    # The stop signal itself is a label, which --eod-mask-loss does not mask.
    (note,) = check("--eod-mask-loss")
    assert "first token after" in note


@pytest.mark.parametrize(("pad", "allow"), [(0, False), (1, True), (None, True)])
def test_pad_tokens_that_mask_nothing(pad: int | None, allow: bool) -> None:
    check_pad_token(pad, 0, allow)


def test_pad_equal_to_eos_must_not_mask_the_stop_signal() -> None:
    with pytest.raises(UsageError, match=r"--allow-ambiguous-pad-tokens.*out of the loss"):
        check_pad_token(0, 0, True)


# The entry point


def test_a_mistake_is_answered_without_importing_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from megatron_srp.training import pretrain\n"
        "from megatron_srp.training.checks import data\n"
        "from megatron_srp.training.flags import command_line, defaults, refused\n"
        "assert not {'torch', 'numpy', 'megatron'} & set(sys.modules)\n"
        f"sys.argv[1:] = ['--srp-preset', 'debug', '--data-path', {str(tmp_path / 'x')!r}]\n"
        "pretrain.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_every_refusal_is_one_line() -> None:
    for flag in REFUSED:
        value = [] if LOOKED_AT[flag].get("action") else ["2"]
        with pytest.raises(SrpError) as caught:
            check(flag, *value)
        assert "\n" not in str(caught.value)


def test_hybrid_layers_are_the_presets() -> None:
    argv = expand_flags(["--srp-preset", "debug", "--srp-model-class", "hybrid"])
    assert argv[argv.index("--hybrid-layer-pattern") + 1] == "*-*-*-*-"
    assert not [flag for flag in argv if flag.startswith("--num-layers")]
    assert model_of(look_at(argv)) == model_of(look_at(expand_flags(["--srp-preset", "debug"])))


@pytest.mark.parametrize(
    "argv",
    [
        ["--hybrid-layer-pattern", "*-"],
        ["--use-rope-scaling"],
        ["--num-virtual-stages-per-pipeline-rank", "2"],
    ],
)
def test_flags_that_hybrid_layers_do_not_have(argv: list[str]) -> None:
    with pytest.raises(UsageError, match=f"--srp-model-class hybrid.*{argv[0]}"):
        expand_flags(["--srp-preset", "debug", "--srp-model-class", "hybrid", *argv])
