"""What a run records of its shards, and what a resumed run may change."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.cli.preprocess import main
from megatron_srp.errors import UsageError
from megatron_srp.training.checks.data_record import continue_data, describe_shards, differences, succeed
from megatron_srp.training.checks.lineage import record_data
from megatron_srp.training.flags.command_line import look_at
from tests.helpers.plain_shards import build

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tokenizer_models, tmp_path_factory) -> Path:
    """Two plain shards, sidecars of the first with two intervals, and the shard built with each."""
    from megatron_srp.tokenization import load_tokenizer

    folder = tmp_path_factory.mktemp("records")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    for name, append_eod in (("plain", True), ("endless", False)):
        build(folder / name, tokenizer, None, append_eod=append_eod)
    for words in ("8", "5"):
        for kind in ([], ["--materialize"]):
            prefix = folder / ("built" if kind else "side") / words
            prefix.parent.mkdir(exist_ok=True)
            shard = str(folder / "plain_text_document")
            argv = ["--input-shards", shard, "--guard", "heuristic", "--max-words", words, *kind]
            assert not main([*argv, "--output-prefix", str(prefix)])
    return folder


def records(folder: Path, *argv: str) -> Records:
    return describe_shards(look_at([arg.replace("@", f"{folder}/") for arg in argv]))


def test_what_is_recorded(folder: Path, tokenizer) -> None:
    sidecar = "@side/8_plain_text_document.srp"
    blend = ["--data-path", "3", "@plain_text_document", "1", "@endless_text_document", "--srp-sidecar", sidecar]
    reflected, plain = records(folder, *blend)
    assert (reflected["weight"], plain["weight"]) == (0.75, 0.25)
    assert {record["tokenizer"] for record in (reflected, plain)} == {tokenizer.fingerprint}
    assert {record["eos_id"] for record in (reflected, plain)} == {tokenizer.eos_id}
    assert (reflected["append_eod"], plain["append_eod"]) == (True, False)
    assert (reflected["max_words"], plain["max_words"]) == (8, None)
    assert reflected["reflection"]["open"] == "<think>"
    assert reflected["sidecar"] and plain["sidecar"] is None


PLAIN = ["--data-path", "@plain_text_document"]
SIDE = [*PLAIN, "--srp-sidecar", "@side/8_plain_text_document.srp"]
BUILT = ["--data-path", "@built/8_plain_text_document"]


@pytest.mark.parametrize(
    ("was", "now", "phrase"),
    [
        (SIDE, [*PLAIN, "--srp-sidecar", "@side/5_plain_text_document.srp"], "--max-words 8 there and 5 here"),
        (BUILT, ["--data-path", "@built/5_plain_text_document"], "--max-words 8 there and 5 here"),
        (SIDE, PLAIN, "--max-words 8 there and none here"),
        (PLAIN, ["--data-path", "@endless_text_document"], "--append-eod True there and False here"),
        (
            PLAIN,
            [*PLAIN, "@plain_text_document"],
            "plain_text_document there, plain_text_document, plain_text_document",
        ),
        (["--data-path", "1", *PLAIN[1:], "1", *BUILT[1:]], ["--data-path", "3", *PLAIN[1:], "1", *BUILT[1:]], "0.75"),
        (PLAIN, ["--train-data-path", *PLAIN[1:]], "the split all there and train here"),
    ],
)
def test_other_data(folder: Path, was: list[str], now: list[str], phrase: str) -> None:
    found = differences(records(folder, *was), records(folder, *now))
    assert phrase in "; ".join(found)


def test_data_that_only_moved(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("plain*"):
        (tmp_path / file.name).symlink_to(file)
    assert differences(records(folder, *PLAIN), records(tmp_path, *PLAIN)) == []
    assert differences(records(folder, *PLAIN), records(folder, "--data-path", "2", *PLAIN[1:])) == []


def test_other_text_of_the_same_settings(folder: Path, tokenizer, tmp_path: Path) -> None:
    build(tmp_path / "plain", tokenizer, None, texts=["Another text."])
    (found,) = differences(records(folder, *PLAIN), records(tmp_path, *PLAIN))
    assert found == "plain_text_document: the content of plain_text_document there and another here"


def run_on(folder: Path, *argv: str) -> Namespace:
    args = look_at([arg.replace("@", f"{folder}/") for arg in argv])
    record_data(args)
    return args


def test_a_resumed_run_and_other_data(folder: Path) -> None:
    saved = run_on(folder, *SIDE)
    with pytest.raises(
        UsageError, match=r"^--load x was trained on other data: plain_text_document: .*new-data to continue"
    ):
        continue_data("--load x", saved, run_on(folder, *PLAIN), 25)
    args = run_on(folder, *PLAIN, "--srp-allow-new-data")
    note = continue_data("--load x", saved, args, 25)
    assert note is not None and "--max-words 8 there and none here" in note
    (earlier,) = args.srp_data["earlier"]
    assert (earlier["until"], earlier["shards"]) == (25, saved.srp_data["shards"])
    # The next start has the new data, and keeps what is known of the first.
    again = run_on(folder, *PLAIN)
    assert continue_data("--load x", args, again, 40) is None
    assert again.srp_data["earlier"] == args.srp_data["earlier"]


def test_settings_that_choose_other_samples(folder: Path) -> None:
    def run(**settings: Any) -> Namespace:
        args = run_on(folder, *PLAIN, *(["--srp-allow-new-data"] if settings.pop("allowed", False) else []))
        return Namespace(**{**vars(args), "seed": 1234, "split": "998,1,1", "seq_length": 2048, **settings})

    assert continue_data("--load x", run(), run(), 25) is None
    for name, value, flag in (("seed", 7, "--seed"), ("split", None, "--split"), ("seq_length", 4096, "--seq-length")):
        with pytest.raises(
            UsageError, match=f"other data: {flag} {run().__dict__[name]} there and {value} here.*new-data"
        ):
            continue_data("--load x", run(), run(**{name: value}), 25)
    args = run(seed=7, allowed=True)
    assert "--seed 1234 there and 7 here" in (continue_data("--load x", run(), args, 25) or "")


def test_checkpoints_from_before_shards_were_recorded(folder: Path) -> None:
    for saved in (Namespace(), Namespace(srp_data=None), Namespace(srp_data={"tokenizer": "a", "reflection": None})):
        assert continue_data("--load x", saved, run_on(folder, *PLAIN), 25) is None
    fresh = run_on(folder, *PLAIN)
    succeed(Namespace(), fresh, 25)
    assert fresh.srp_data["earlier"] == []
