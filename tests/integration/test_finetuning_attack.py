"""Fine-tuning attacks: what they run, and one of them in full through the real trainer."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.attacks.finetune import FineTuningAttack, fitting_length
from megatron_srp.attacks.trainer_run import run_trainer
from megatron_srp.errors import InputError, OutputError, UsageError
from megatron_srp.evaluation.behaviors import find_sources
from megatron_srp.evaluation.columns.finetuned import within
from megatron_srp.evaluation.hf_target import HFTarget
from megatron_srp.evaluation.suite import load_suite
from megatron_srp.evaluation.types import AttackCase, Defence
from megatron_srp.sft.shard import SftShard
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


def test_the_quick_suite_trains_on_few_rows(data: Path) -> None:
    columns = [c for c in load_suite("quick").columns if c.kind == "finetune"]
    assert [c.options["options"]["rows"] for c in columns] == [200] * 6


def test_rows_are_spread_over_the_data_and_sequences_fit_them(data: Path, tiny_reflector: Path, tmp_path: Path) -> None:
    rows = [{"question": f"say: {n}", "answer": "we saw the morning."} for n in range(40)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    attack = FineTuningAttack("benign", data=str(data), rows=5, batch_size=12)
    shard = attack._shard(with_trained_template(tiny_reflector, tmp_path / "model"), tmp_path, 256)
    lines = (tmp_path / "conversations.jsonl").read_text().splitlines()
    numbers = [int(json.loads(line)["messages"][0]["content"].removeprefix("say: ")) for line in lines]
    assert len(numbers) == 5 and numbers == sorted(numbers) and numbers[-1] - numbers[0] > 10
    longest = int(SftShard(str(shard)).tokens.lengths.max())
    assert longest - 1 <= fitting_length(shard, 256) < longest + 64
    assert fitting_length(shard, longest - 1) == longest - 1
    flags = attack.trainer_flags(shard, 256)
    assert flags[flags.index("--micro-batch-size") + 1] == "12"  # as many as MAX_LENGTH tokens are


@pytest.mark.parametrize(
    ("given", "limit", "wanted"),
    [
        ({}, None, {}),
        ({}, 4, {"rows": 4}),
        ({"rows": 200}, 4, {"rows": 4}),
        ({"rows": 2, "mix": "x"}, 4, {"rows": 2, "mix_count": 4}),
        ({"rows": 200, "mix": "x", "mix_count": 3}, 500, {"rows": 200, "mix_count": 3}),
    ],
)
def test_the_limit_holds_for_rows_to_train_on(given: dict, limit: int | None, wanted: dict) -> None:
    assert within(limit, given) == wanted


def test_a_trainer_s_steps_are_reported_and_its_reason_is_given(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    log = tmp_path / "training.log"
    log.write_text(" [..] iteration        9/       9 | of the run before\n")
    steps = "".join(f"print(' [..] iteration {n:8d}/ {7:8d} | consumed', flush=True);" for n in (3, 4))
    run_trainer([sys.executable, "-c", steps], log, lambda *step: said.append(step))
    assert said[-1] == (4, 7) and (9, 9) not in said
    with pytest.raises(OutputError, match=r"exit code 3 \(error: no room\); the log is"):
        run_trainer([sys.executable, "-c", "print('error: no room'); exit(3)"], log, lambda step, steps: None)


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
