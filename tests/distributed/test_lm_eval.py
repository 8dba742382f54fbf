"""lm-eval takes the exported model and gives the log-likelihoods that transformers gives."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.jobs import Corpus, Forkserver, Run, environment

pytestmark = [pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore")]

TASK = """
task: words
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""


def test_a_task_from_local_data(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra `eval`)")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from megatron_srp.checkpoints.export_hf import export_hf

    run = Run(tmp_path)
    assert forkserver.run(1, [*corpus.flags, *run.flags]).codes == [0]
    export_hf(tmp_path / "checkpoints", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")

    cases: list[dict[str, Any]] = [
        {"query": f"w{i} w{i + 1}", "choices": [f"w{i + 2}", "w9", f"w{2 * i}"], "answer": 1} for i in range(20)
    ]
    right = 0
    for case in cases:
        with torch.no_grad():
            last = model(**tokenizer(case["query"], return_tensors="pt")).logits[0, -1]
        ids = [tokenizer.convert_tokens_to_ids(choice) for choice in case["choices"]]
        right += int(last[ids].argmax()) == case["answer"]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "words.yaml").write_text(TASK.replace("FILE", str(tmp_path / "words.jsonl")))

    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "words", "--device", "cpu"]
    command += ["--model_args", f"pretrained={tmp_path / 'model'},dtype=float32", "--batch_size", "4"]
    command += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "results")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment() | offline, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    (report,) = (tmp_path / "results").rglob("results_*.json")
    assert json.loads(report.read_text())["results"]["words"]["acc,none"] == pytest.approx(right / len(cases))
    assert 0 < right < len(cases)
