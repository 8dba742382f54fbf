"""The plans `model` and `world` of tools/gpu_check.sh, rehearsed on a CPU with a model and a world in miniature."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.real_model_sets import write_model, write_prose, write_sets

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_check.sh"


def rehearse(folder: Path, *argv: object) -> dict[str, Any]:
    """What gpu_check.json says of the stages, by name."""
    command = [SCRIPT, "--device", "cpu", "--out", folder / "out", "--minutes", "20", *argv]
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((folder / "out" / "gpu_check.json").read_text())
    return {stage["stage"]: stage for stage in content["stages"]}


@pytest.fixture
def model_plan(tmp_path: Path) -> list[object]:
    given = ["--plan", "model", "--model", write_model(tmp_path / "model"), "--work", tmp_path / "work"]
    given += ["--corpus", write_prose(tmp_path / "prose"), "--sets", write_sets(tmp_path / "sets")]
    return [*given, *"--limit 1 --pretrain-epochs 1 --sft-epochs 1 --seq-length 256 --batch 2".split()]


@pytest.mark.slow
def test_the_model_plan_up_to_its_data_and_on_from_there(tmp_path: Path, model_plan: list[object]) -> None:
    assert rehearse(tmp_path, *model_plan, "--cases", "start")["start"]["status"] == "ok"
    stages = rehearse(tmp_path, *model_plan, "--cases", "start,prose,chats")
    assert stages["start"]["reason"] == "done before" and {stages["prose"]["status"], stages["chats"]["status"]} == {
        "ok"
    }
    data = tmp_path / "work" / "data"
    sizes = {name: (data / f"{name}.bin").stat().st_size for name in ("reflected_text_document", "plain_text_document")}
    assert sizes["reflected_text_document"] > sizes["plain_text_document"]
    assert (data / "reflected-chats_sft.mask").is_file() and (data / "plain-chats_sft.mask").is_file()


@pytest.mark.exhaustive
def test_the_model_plan_up_to_the_attacks(tmp_path: Path, model_plan: list[object]) -> None:
    arms = [f"{step}-{arm}" for arm in ("srp", "plain") for step in ("pretrain", "sft", "attack")]
    stages = rehearse(tmp_path, *model_plan, "--cases", ",".join(["start", "prose", "chats", *arms, "benign-srp"]))
    assert {stage["status"] for stage in stages.values()} == {"ok"}
    assert "prefill: heuristic" in stages["attack-srp"]["figures"]["measured"]
    table = (tmp_path / "out" / "gpu_check.md").read_text()
    assert "| benign fine-tuning, original: heuristic |" in table
    comparison = json.loads((tmp_path / "out" / "gpu_check.json").read_text())["comparison"]
    assert {row["column"] for row in comparison["plain and srp"]} >= {"prefill", "direct requests"}


@pytest.mark.exhaustive
def test_the_world_plan(tmp_path: Path) -> None:
    stages = rehearse(tmp_path, "--plan", "world", "--preset", "nano", "--limit", 5, "--cases", "world")
    assert stages["world"]["status"] == "ok"
    assert "| seed0/srp/sft/train |" in (tmp_path / "out" / "gpu_check.md").read_text()
