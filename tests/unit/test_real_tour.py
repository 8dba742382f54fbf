"""`make real` without its model: the commands it gives, what it reads, how it resumes, and its summary."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from megatron_srp.benchmarks.real import compare, data, summary, tour
from megatron_srp.benchmarks.real.inputs import QUESTIONS, write_inputs
from megatron_srp.errors import OutputError, UsageError
from megatron_srp.evaluation.behaviors import find_sources, load_behaviors
from megatron_srp.generation.prompts_file import read_prompts

STEP = (
    " [2026-11-29 01:01:06] iteration {:8d}/      20 | global batch size:     2 | lm loss: {:.6E} | loss scale: 1.0\n"
)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tour.Tour:
    monkeypatch.setattr(tour, "_model", lambda given, start: ["--pretrained-checkpoint", given.out / start])
    out = tmp_path / "out"
    return tour.Tour(tmp_path / "m.gguf", out, out / "inputs" / "prose", out / "inputs" / "sets", limit=2)


def test_its_commands_are_ones_that_a_user_can_give(given: tour.Tour) -> None:
    commands = [command for make in tour.steps(given).values() for command in make(given)]
    named = [command for command in commands if command[2] == "megatron_srp" and command[3] != "train"]
    assert [command[3] for command in named] == [
        "preprocess",
        "sft",
        "sft",
        "export",
        "generate",
        "generate",
        "evaluate",
    ]
    for command in named:
        parser = import_module(f"megatron_srp.cli.{command[3]}").build_parser()
        parser.parse_args([str(part) for part in command[4:]])


def test_what_it_reads_are_data_sets_and_conversations(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    sources = find_sources([str(tmp_path / "sets")])
    assert set(sources) >= {"advbench", "harmbench", "xstest", "alpaca", "gsm8k-train"}
    asked = {
        behavior.prompt for name in sources for behavior in load_behaviors(name, sources[name]) if behavior.harmful
    }
    learned = {json.loads(line)["prompt"] for line in (tmp_path / "harmful.jsonl").read_text().splitlines()}
    assert asked and learned and not asked & learned
    assert [record["messages"][0]["content"] for record in read_prompts(tmp_path / "questions.jsonl")] == list(
        QUESTIONS
    )


def test_it_resumes_at_the_step_that_failed(given: tour.Tour, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run_step(step: str, command: tour.Argv, log: Path) -> None:
        ran.append(step)
        if step == "sft" and ran.count("sft") == 1:
            raise OutputError("no room")

    monkeypatch.setattr(tour, "run_step", run_step)
    monkeypatch.setattr(tour, "write_summary", lambda out: given.out / "inputs" / "questions.jsonl")
    with pytest.raises(OutputError):
        tour.run(given)
    tour.run(given)
    assert list(dict.fromkeys(ran)) == list(tour.steps(given))
    assert [ran.count(step) for step in ("start", "pretrain", "sft", "evaluate")] == [1, 1, 2, 1]


def test_without_its_model_it_says_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRP_REAL_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=r"no GGUF file .*tests/real/fetch\.sh brings one"):
        tour.parse([])
    assert data.real_tokenizers(tmp_path / "smollm2") == []
    (tmp_path / "tokenizers" / "qwen3").mkdir(parents=True)
    assert data.real_tokenizers(tmp_path / "again") == [tmp_path / "tokenizers" / "qwen3"]


@pytest.mark.parametrize(
    ("logits", "loss", "message"),
    [(0.0, 0.0, ""), (0.5, 0.0, "logits differ"), (0.0, 0.01, "first losses are")],
)
def test_figures_that_differ_are_refused(logits: float, loss: float, message: str, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=16, **shape)).eval()
    network.save_pretrained(tmp_path / "model")
    tokens = torch.randint(50, (2, 9))
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:], "loss_mask": torch.ones(2, 8)}
    with torch.no_grad():
        own = network(batch["tokens"], labels=None).logits
        mean = float(torch.nn.functional.cross_entropy(own.flatten(0, 1), batch["labels"].flatten()))
    padded = torch.nn.functional.pad(own[:1] + logits, (0, 14))
    recorded = batch | {"loss": mean + loss}
    torch.save([recorded | {"logits": padded}, recorded], tmp_path / "first.pt")
    arguments = tmp_path / "first.pt", tmp_path / "model"
    if message:
        with pytest.raises(OutputError, match=message):
            compare.compare(*arguments)
        return
    found = compare.compare(*arguments)
    assert found["losses"] == pytest.approx(found["losses_of_transformers"], abs=1e-5)


def test_the_summary_has_figures_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"largest_difference_of_logits": 2e-6, "losses": [3.2, 3.1], "losses_of_transformers": [3.2, 3.10001]}
    (tmp_path / "first.json").write_text(json.dumps(first))
    counts = {"documents": 400, "tokens": 1100, "plain_tokens": 1000}
    monkeypatch.setattr(summary, "read_manifest", lambda path: {"counts": counts})
    for name in ("pretrain", "sft"):
        (tmp_path / f"{name}.log").write_text(STEP.format(1, 3.0) + STEP.format(2, 2.5))
    messages = [{"role": "user", "content": "How?"}]
    answer = {"messages": messages, "text": "a | b\nc", "forced": []}
    (tmp_path / "before.jsonl").write_text(json.dumps(answer) + "\n")
    (tmp_path / "after.jsonl").write_text(json.dumps(answer | {"text": "No.", "forced": [{"unsafe": 0.9}]}) + "\n")
    (tmp_path / "evaluation").mkdir()
    measures = [{"name": "heuristic", "value": 50.0, "unit": "%", "n": 2}, {"name": "llm", "value": None}]
    report = {"columns": [{"name": "direct", "measures": measures}]}
    (tmp_path / "evaluation" / "report.json").write_text(json.dumps(report))
    (tmp_path / "start.done").write_text("12")
    text = summary.write_summary(tmp_path).read_text()
    assert "| 2 | 3.10000 | 3.10001 |" in text and "at most 2.0e-06" in text
    assert "400 documents, 1,000 tokens and 10.0% of reflections" in text
    assert "Post-training: 2 steps, loss 3.000 to 2.500" in text
    assert "| How? | a \\| b c | No. | 0.90 |" in text
    assert "| direct | heuristic | 50 % | 2 |" in text and "llm" not in text and "start 12" in text
