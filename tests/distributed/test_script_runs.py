"""`srp run` with a script that knows nothing of this project: data paths may be sidecars, and mistakes are refused."""

import json
import shutil
from pathlib import Path

import pytest

from tests.distributed.jobs import Finished, Forkserver, Run

SCRIPT = str(Path(__file__).parents[2] / "examples" / "pretrain_minimal.py")
MODULE = "megatron_srp.run"
FLAGS = ["--srp-preset", "debug", "--seq-length", "128", "--micro-batch-size", "2", "--global-batch-size", "4"]
FLAGS += ["--train-iters", "5", "--tensor-model-parallel-size", "2"]


def test_losses_are_those_of_the_built_shards(two_corpora: Path, forkserver: Forkserver, tmp_path: Path) -> None:
    """As data paths, as --srp-sidecar, and as the shards that were built."""
    built, plain = ([str(two_corpora / f"{kind}_{name}_text_document") for name in "ab"] for kind in ("built", "plain"))
    sidecars = [str(two_corpora / f"w20_plain_{name}_text_document.srp") for name in "ab"]
    losses = []
    for number, (data, more) in enumerate([(built, []), (sidecars, []), (plain, ["--srp-sidecar", *sidecars])]):
        run = Run(tmp_path / str(number))
        blend = ["--data-path", "0.6", data[0], "0.4", data[1]]
        finished = forkserver.run(2, [SCRIPT, *FLAGS, *blend, *more, *run.flags], MODULE)
        assert finished.codes == [0, 0], finished.log
        losses.append(run.losses())
    assert len(losses[0]) == 5
    assert losses[0] == losses[1] == losses[2]


def assert_refused(finished: Finished, message: str) -> None:
    assert finished.codes[0] == 2 and finished.codes[1] in (2, -15), finished.log  # stopped, if it was slower
    assert (
        [line for line in finished.log.splitlines() if "rror" in line and "Warning" not in line]
        == [line for line in finished.log.splitlines() if line.startswith("error: ") and message in line]
        != []
    )
    assert "Traceback" not in finished.log


MISTAKES = {
    "positions": (["--reset-position-ids"], "--reset-position-ids cannot be used on data with reflections"),
    "tokenizer": (["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", "OTHER"], "Pass that tokenizer"),
    "another shard's sidecar": (
        ["--data-path", "PLAIN", "--srp-sidecar", "OF_B"],
        "made for the shard plain_b_text_document with other content",
    ),
    "neither": (["--data-path", "nothing"], "nothing.bin and nothing.idx do not exist"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_on_rank_0(
    mistake: str, two_corpora: Path, forkserver: Forkserver, tokenizer_models
) -> None:
    names = {"OTHER": str(tokenizer_models["llama3"][1]), "PLAIN": str(two_corpora / "plain_a_text_document")}
    names["OF_B"] = str(two_corpora / "w20_plain_b_text_document.srp")
    flags, message = MISTAKES[mistake]
    data = [] if "--data-path" in flags else ["--data-path", str(two_corpora / "w20_plain_a_text_document.srp")]
    argv = [SCRIPT, *FLAGS, *data, *(names.get(flag, flag) for flag in flags)]
    assert_refused(forkserver.run(2, argv, MODULE), message)


def test_pad_equal_to_eos_is_refused_when_the_tokenizer_is_known(
    two_corpora: Path, forkserver: Forkserver, tokenizer_models, tmp_path: Path
) -> None:
    """By the hooks in megatron.core, when the script builds its datasets."""
    padded = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_models["gpt2"][1], padded)
    config = json.loads((padded / "tokenizer_config.json").read_text())
    (padded / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": config["eos_token"]}))
    data = ["--data-path", str(two_corpora / "w20_plain_a_text_document.srp"), "--allow-ambiguous-pad-tokens"]
    data += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(padded)]
    assert_refused(forkserver.run(2, [SCRIPT, *FLAGS, *data], MODULE), "its pad token is its eos")


def test_reflections_are_logged(two_corpora: Path, forkserver: Forkserver, tmp_path: Path) -> None:
    """Under tensor parallelism and two ranks of data in turn; the training itself stays as it is."""
    data = ["--data-path", str(two_corpora / "w20_plain_a_text_document.srp")]
    values = []
    for number, (layout, more) in enumerate(
        [("2", []), ("2", ["--srp-log-reflections"]), ("1", ["--srp-log-reflections"])]
    ):
        run = Run(tmp_path / str(number))
        argv = [SCRIPT, *FLAGS[:-2], "--tensor-model-parallel-size", layout, *data, *more, *run.flags]
        finished = forkserver.run(2, argv, MODULE)
        assert finished.codes == [0, 0], finished.log
        names = ["lm loss", *(["loss on text", "loss on reflections", "right verdicts: Safe"] if more else [])]
        values.append({name: run.losses(name) for name in names})
    assert values[0]["lm loss"] == values[1]["lm loss"]
    for step, loss in values[1]["lm loss"].items():
        text, reflections = values[1]["loss on text"][step], values[1]["loss on reflections"][step]
        assert min(text, reflections) <= loss <= max(text, reflections)
        assert 0 <= values[1]["right verdicts: Safe"][step] <= 1
    for name, losses in values[1].items():
        assert values[2][name] == pytest.approx(losses, abs=2e-3), name
