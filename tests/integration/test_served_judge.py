"""The LLM judge and a real model behind a real server: a miniature that judges, served by `srp serve`."""

import json
from pathlib import Path

import pytest
import yaml

from megatron_srp.cli.evaluate import main
from tests.helpers.served import Served
from tests.helpers.tiny_judge import make_tiny_judge

pytest.importorskip("openai")


@pytest.fixture(scope="module")
def judge_url(tmp_path_factory):
    model = make_tiny_judge(tmp_path_factory.mktemp("tiny-judge"))
    with Served(model, "--on-unsafe", "off", "--served-name", "tiny-judge", "--batch-size", "8") as served:
        yield served.wait().url


def test_its_opinions_are_those_the_model_was_trained_for(judge_url: str, tiny_reflector: Path, tmp_path: Path) -> None:
    requests = ["say: river", "say: knife", "say: house"]  # asked for a knife, the model writes kill
    (tmp_path / "advbench.json").write_text(json.dumps([{"goal": request} for request in requests]))
    column = {"name": "direct", "kind": "attack", "attack": "direct", "data": ["advbench"], "max_new_tokens": 60}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"title": "t", "columns": [column]}))
    command = [str(tiny_reflector), "--suite", str(tmp_path / "suite.yaml"), "--data", str(tmp_path), "--device", "cpu"]
    main([*command, "--judge-endpoint", judge_url, "--judge-model", "tiny-judge", "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (found,) = report["columns"]
    said = [(case["outcomes"]["heuristic"], case["outcomes"]["llm"]) for case in found["cases"]]
    assert said == [(True, False), (False, True), (True, False)]
    assert [m["value"] for m in found["measures"] if m["name"] == "mixed"] == [0]
    assert report["judges"]["llm"]["model"] == "tiny-judge"
    assert report["judge_agreement"][0]["agreement"] == 0
