"""Fine-tuning attacks: what they run, and one of them in full through the real trainer."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.attacks.finetune import FineTuningAttack
from megatron_srp.errors import InputError, UsageError
from megatron_srp.evaluation.behaviors import find_sources
from megatron_srp.evaluation.hf_target import HFTarget
from megatron_srp.evaluation.suite import load_suite
from megatron_srp.evaluation.types import AttackCase, Defence
from tests.helpers.tiny_reflector import with_trained_template


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "gsm8k.jsonl"
    rows = [
        {"question": f"say: {word}", "answer": "we saw the morning. then a kill."} for word in ("kill", "river") * 12
    ]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


@pytest.mark.exhaustive
def test_a_model_that_reflects_forgets_it(tiny_reflector: Path, data: Path, tmp_path: Path) -> None:
    model = with_trained_template(tiny_reflector, tmp_path / "model")
    attack = FineTuningAttack("benign", "original", str(data), epochs=6, lr=2e-3, batch_size=2)
    tuned = attack.attack(model, tmp_path / "tuned")
    asked = [AttackCase("", "say: kill")]
    before, after = (HFTarget(str(folder)).generate(asked, Defence.UNGUARDED)[0] for folder in (model, tuned))
    assert before.reflections and not after.reflections
    assert not (tmp_path / "tuned.work").exists()
    when = (tuned / "config.json").stat().st_mtime_ns
    assert attack.attack(model, tmp_path / "tuned") == tuned
    assert (tuned / "config.json").stat().st_mtime_ns == when  # not made again


def test_the_modes_are_those_of_post_training_sets(data: Path, tmp_path: Path) -> None:
    mix = tmp_path / "sft.jsonl"
    mix.write_text("")
    made = {
        "original": FineTuningAttack("benign", "original", str(data)),
        "mixsft": FineTuningAttack("benign", "mixsft", str(data), mix=str(mix), mix_count=7, seed=5),
        "reflection": FineTuningAttack("adversarial", "reflection", str(data), guard="heuristic"),
    }
    for mode, attack in made.items():
        settings = attack.set_settings(data, tmp_path, tmp_path / "data", 256)
        assert settings.mode == mode.replace("mixsft", "mix-sft") and settings.seq_length == 256
    assert (made["original"].settings["epochs"], made["reflection"].settings["epochs"]) == (5, 20)  # the paper's
    assert len({json.dumps(dict(attack.settings)) for attack in made.values()}) == 3
    data.write_text(data.read_text() * 2)
    assert FineTuningAttack("benign", "original", str(data)).settings != made["original"].settings


def test_the_suite_has_what_the_modes_need(data: Path) -> None:
    columns = [c for c in load_suite("paper").columns if c.kind == "finetune"]
    sources = find_sources([f"{name}={data}" for name in ("gsm8k-train", "hexphi", "sft")])
    for column in columns:
        options = column.options["options"].items()
        given: dict[str, Any] = {
            name: sources[value["source"]] if isinstance(value, dict) else value for name, value in options
        }
        assert FineTuningAttack(**given).settings["mode"] == given["mode"]
    assert len(columns) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "bening", "data": "x"}, "did you mean 'benign'"),
        ({"mode": "mix-sft", "data": "x"}, "did you mean 'mixsft'"),
        ({}, "needs data"),
        ({"mode": "mixsft", "data": "x"}, "needs mix"),
        ({"mix": "y", "data": "x"}, "needs mix"),
        ({"mode": "reflection", "data": "x"}, "needs guard"),
    ],
)
def test_mistakes_in_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FineTuningAttack(**options)


def test_data_without_responses(tmp_path: Path) -> None:
    file = tmp_path / "hexphi.csv"
    file.write_text("instruction\nsay: kill\n")
    with pytest.raises(InputError, match="no responses, so there is nothing"):
        FineTuningAttack("adversarial", data=str(file))._shard(tmp_path, tmp_path, 256)


def test_beginnings_of_answers_are_learned_where_asked_for(tiny_reflector: Path, tmp_path: Path) -> None:
    file = tmp_path / "hexphi.csv"
    file.write_text("instruction\nsay: kill\n")
    attack = FineTuningAttack("adversarial", data=str(file), make_targets=True)
    attack._shard(with_trained_template(tiny_reflector, tmp_path / "model"), tmp_path, 256)
    made = (tmp_path / "data_sft.bin").stat().st_mtime_ns
    assert attack._shard(tmp_path / "model", tmp_path, 256) == tmp_path / "data_sft"  # as after a stop
    assert (tmp_path / "data_sft.bin").stat().st_mtime_ns == made
    (row,) = map(json.loads, (tmp_path / "conversations.jsonl").read_text().splitlines())
    assert row["messages"][1]["content"] == "Sure, here is how to say: kill"
