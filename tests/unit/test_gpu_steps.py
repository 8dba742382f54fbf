"""The plans `model` and `world`: their steps, what they make of data sets, how weights travel, and their tables."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.benchmarks.gpu import model, model_data, model_steps, real_model, world
from megatron_srp.benchmarks.gpu.options import parse
from megatron_srp.benchmarks.gpu.stages import Check
from megatron_srp.benchmarks.gpu.steps import Place, Step
from megatron_srp.errors import InputError, UsageError
from megatron_srp.evaluation.suite import load_suite
from tests.helpers.real_model_sets import REQUESTS, write_prose, write_sets

PYTHON = "python3"


def make_check(folder: Path, **options: Any) -> Check:
    given = {"work": None, "guard": "heuristic", "limit": 4} | options
    check = Check(argparse.Namespace(**given), folder, time.monotonic() + 600)
    check.logs.mkdir(parents=True)
    return check


def say(text: str, code: int = 0) -> list[object]:
    return [PYTHON, "-c", f"print({text!r}); raise SystemExit({code})"]


# Steps


def test_a_step_is_done_once_in_a_folder_that_is_kept(tmp_path: Path) -> None:
    asked = []

    def commands(place: Place) -> list[list[object]]:
        asked.append(place.folder)
        return [say("one"), say("two")]

    step = Step("both", 1, 60, commands, lambda place: {"figure": 7})
    first, second = (make_check(tmp_path / name, work=tmp_path / "work") for name in ("first", "second"))
    outcome = step.work(first, 60)
    assert (outcome.status, outcome.figures) == ("ok", {"figure": 7})
    log = (first.logs / "both.log").read_text()
    assert log.index("one") < log.index("two")
    outcome = step.work(second, 60)
    assert (outcome.status, outcome.reason, outcome.figures) == ("ok", "done before", {"figure": 7})
    assert asked == [tmp_path / "work"]


def test_a_step_ends_with_the_command_that_fails_and_the_next_one_waits_for_it(tmp_path: Path) -> None:
    check = make_check(tmp_path)
    first = Step("first", 1, 60, lambda place: [say("error: no room", 2), say("never")])
    second = Step("second", 1, 60, lambda place: [say("never")], needs=("first",))
    assert first.work(check, 600).summary() == "failed: error: no room"
    assert second.work(check, 600).summary() == "skipped: needs first"
    assert "never\n" not in (check.logs / "first.log").read_text()


def test_a_step_that_is_cut_is_not_done(tmp_path: Path) -> None:
    check = make_check(tmp_path)
    step = Step("slow", 1, 60, lambda place: [[PYTHON, "-c", "import time; time.sleep(600)"]])
    assert step.work(check, 0.5).status == "timeout"
    assert not (tmp_path / "experiment" / "done" / "slow").exists()


# The plans' options and stages


def test_the_model_plan_asks_for_what_it_needs(tmp_path: Path) -> None:
    prose, sets = write_prose(tmp_path / "prose"), write_sets(tmp_path / "sets")
    argv = ["--plan", "model", "--model", str(tmp_path), "--corpus", str(prose), "--sets", str(sets)]
    for missing in ("--model", "--corpus", "--sets"):
        at = argv.index(missing)
        with pytest.raises(UsageError, match=f"--plan model needs {missing}"):
            parse(argv[:at] + argv[at + 2 :])
    with pytest.raises(UsageError, match="nowhere: no such file or folder"):
        parse([*argv, "--model", "nowhere"])
    with pytest.raises(UsageError, match="--sets nowhere: no such folder"):
        parse([*argv, "--sets", "nowhere"])
    assert parse(argv).cases[:5] == ["start", "prose", "chats", "pretrain-srp", "sft-srp"]
    assert parse(["--plan", "world"]).cases == ["world", "tuned"]


@pytest.mark.parametrize("steps", [model_steps.steps(), world.steps()], ids=["model", "world"])
def test_every_step_comes_after_what_it_needs(steps: list[Step]) -> None:
    names = [step.name for step in steps]
    assert len(names) == len(set(names))
    for i, step in enumerate(steps):
        assert {*step.needs} <= {*names[:i]}
        assert 0 < step.least_s < step.most_s


def test_suites_are_the_quick_ones_columns(tmp_path: Path) -> None:
    quick = {column.name for column in load_suite("quick").columns if column.kind != "capability"}
    written = [load_suite(str(model_steps._write_suite(tmp_path, name))) for name in ("attack-post-only", "benign-srp")]
    attacks, benign = ([column.name for column in suite.columns] for suite in written)
    assert benign == ["benign fine-tuning, original", "benign fine-tuning, original, guarded"]
    assert {*attacks} | {*(c.name for c in load_suite("quick").columns if c.kind == "finetune")} == quick


# What the model learns and is asked


def test_nothing_that_is_learned_is_asked_again(tmp_path: Path) -> None:
    model_data.draw(write_sets(tmp_path / "sets"), tmp_path / "out")
    chats = [json.loads(line) for line in (tmp_path / "out" / "chats.jsonl").read_text().splitlines()]
    asked = json.loads((tmp_path / "out" / "eval" / "alpaca.json").read_text())
    learned, held_out = {chat["prompt"] for chat in chats}, {row["instruction"] for row in asked}
    assert len(held_out) == len(REQUESTS) / 2 and not learned & held_out
    assert len(learned) == 12 + len(REQUESTS) / 2  # GSM8K's test part
    harmful = (tmp_path / "out" / "harmful.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in harmful] == REQUESTS
    (tmp_path / "sets" / "xstest.csv").unlink()
    with pytest.raises(InputError, match="no file of xstest"):
        model_data.draw(tmp_path / "sets", tmp_path / "again")


def test_the_plain_conversations_say_the_same(tmp_path: Path) -> None:
    parts = [{"reflection": "<think> Unsafe </think>"}, {"stop": True}, {"text": " I can't."}]
    turns = [{"role": "user", "text": "say: kill"}, {"role": "assistant", "parts": parts}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"id": "1", "source": "x", "turns": turns}) + "\n")
    model_data.plain(tmp_path / "chats.jsonl", tmp_path / "plain.jsonl")
    messages = [{"role": "user", "content": "say: kill"}, {"role": "assistant", "content": "I can't."}]
    assert json.loads((tmp_path / "plain.jsonl").read_text()) == {"messages": messages}


# How the weights travel


def test_a_file_travels_in_parts(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(range(256)) * 40)
    parts = real_model.split(file, tmp_path / "parts", part_bytes=100)
    assert len(parts) > 1 and all(part.stat().st_size <= 100 for part in parts)
    (tmp_path / "out").mkdir()
    joined = real_model.join(tmp_path / "parts", tmp_path / "out")
    assert joined.name == "model.gguf" and joined.read_bytes() == file.read_bytes()
    parts[-1].unlink()
    with pytest.raises(InputError, match="the last part is missing"):
        real_model.join(tmp_path / "parts", tmp_path / "out")
    parts[0].write_bytes(b"not xz")
    with pytest.raises(InputError, match="the parts do not fit together"):
        real_model.join(tmp_path / "parts", tmp_path / "out")
    with pytest.raises(InputError, match=r"no parts \(\*\.xz\.000\)"):
        real_model.join(tmp_path, tmp_path / "out")


# Tables


def write_report(folder: Path, name: str, asr: float) -> None:
    measures = [{"name": "heuristic", "value": asr, "unit": "%"}, {"name": "llm", "value": None, "unit": "%"}]
    (folder / "reports" / name).mkdir(parents=True)
    content = {"columns": [{"name": "prefill", "measures": measures}]}
    (folder / "reports" / name / "report.json").write_text(json.dumps(content))


def test_the_models_table_has_the_papers_figures_next_to_ours(tmp_path: Path) -> None:
    check = make_check(tmp_path)
    assert model.markdown(check) == "No model is evaluated yet."
    write_report(tmp_path / "experiment", "attack-srp", 12.5)
    write_report(tmp_path / "experiment", "attack-post-only", 37.5)
    assert "| prefill: heuristic | 12.5 |  | 37.5 | 8.48 | 92.42 |" in model.markdown(check).splitlines()
    assert model.comparison(check) == {}


def test_the_worlds_table_before_and_after_its_report(tmp_path: Path) -> None:
    check = make_check(tmp_path)
    assert "No report yet." in world.markdown(check)
    run = tmp_path / "experiment" / "run"
    (run / "steps" / "seed0").mkdir(parents=True)
    (run / "steps" / "seed0" / "tokenizer.json").write_text(json.dumps({"state": "done", "seconds": 3.4}))
    (run / "steps" / "seed0" / "shard.json").write_text(json.dumps({"state": "started"}))
    finding = {"claim": "SRP resists", "status": "seen", "text": "5 against 40"}
    row = {"setting": "srp", "stage": "sft", "seeds": [0], "general": {"mean": 61.0, "seeds": 1}}
    (run / "report.json").write_text(json.dumps({"summary": [row], "findings": [finding]}))
    table = world.markdown(check)
    assert "srp" in table and "61.0" in table and "| seed0/tokenizer | 3 |" in table and "shard" not in table
    assert world.comparison(check)["findings"] == [finding]
