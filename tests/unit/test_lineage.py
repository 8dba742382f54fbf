"""What a checkpoint was trained on, and the conversations that would undo it."""

from argparse import Namespace
from pathlib import Path

import pytest

from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.training.checks.lineage import check_lineage, describe_data
from megatron_srp.training.flags.command_line import look_at
from tests.helpers.sft_shards import of_lengths, write_sft_shard

TEXT, SPECIAL = ReflectionFormat(), ReflectionFormat(special_tokens=True)


def data(form: ReflectionFormat | None, tokenizer: str | None = "a" * 32) -> dict[str, object]:
    return {"tokenizer": tokenizer, "end_of_document": None, "reflection": form and form.describe()}


def shared(args: Namespace) -> dict[str, object]:
    return {name: value for name, value in describe_data(args).items() if name != "shards"}


def run_on(form: ReflectionFormat | None, tokenizer: str | None = "a" * 32, sft: list[str] | None = None) -> Namespace:
    return Namespace(srp_data=data(form, tokenizer), srp_sft=sft)


def test_what_shards_say(tmp_path: Path) -> None:
    one, other = (
        write_sft_shard(tmp_path / name, of_lengths([9]), form) for name, form in (("a", TEXT), ("b", SPECIAL))
    )
    args = look_at(["--srp-sft", one, "--srp-sft-valid", one])
    assert shared(args) == data(TEXT, "0" * 32)
    with pytest.raises(
        UsageError, match=r"in text tokens, .*in special tokens: train on shards that write them in one"
    ):
        describe_data(look_at(["--srp-sft", one, other]))
    assert shared(look_at(["--mock-data"])) == data(None, None)


@pytest.mark.parametrize("saved", [data(TEXT), data(None, None), data(ReflectionFormat(hints=True)), None])
def test_a_checkpoint_that_fits(saved: dict[str, object] | None) -> None:
    check_lineage("--load x", Namespace(srp_data=saved, tokenizer_type="NullTokenizer"), run_on(TEXT))


@pytest.mark.parametrize(
    ("saved", "problem"),
    [
        (data(SPECIAL), "--load x was trained on reflections written as <think> ... </think> in special tokens"),
        (data(TEXT, "b" * 32), "--load x was trained with the tokenizer t (fingerprint bbbbbbbbbbbb)"),
    ],
)
def test_a_checkpoint_that_does_not(saved: dict[str, object], problem: str) -> None:
    for sft in (None, ["PREFIX"]):
        with pytest.raises(UsageError) as raised:
            check_lineage("--load x", Namespace(srp_data=saved, tokenizer_model="t"), run_on(TEXT, sft=sft))
        assert problem in str(raised.value)
        assert ("srp sft" in str(raised.value)) == (sft is not None)


def test_a_checkpoint_that_names_its_tokenizer(tokenizer_models: dict[str, tuple[str, Path]]) -> None:
    """One of other tools, such as an imported model, has no record but a tokenizer."""
    from megatron_srp.tokenization import tokenizer_fingerprint

    kind, model = tokenizer_models["gpt2"]
    saved = Namespace(tokenizer_type=kind, tokenizer_model=str(model))
    check_lineage("--load x", saved, run_on(TEXT, tokenizer_fingerprint(kind, model)))
    with pytest.raises(UsageError, match="was trained with the tokenizer"):
        check_lineage("--load x", saved, run_on(TEXT))
    saved.tokenizer_model = "no longer there"
    check_lineage("--load x", saved, run_on(TEXT))
