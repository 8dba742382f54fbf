"""tools/generate.py as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_srp.errors import SrpError
from megatron_srp.generation.cli import main

TOOL = Path(__file__).parents[2] / "tools" / "generate.py"


def generate(tmp_path, model, lines, *flags):
    (tmp_path / "in.jsonl").write_text("".join(line + "\n" for line in lines))
    main(["--model", str(model), "--device", "cpu", "--input", str(tmp_path / "in.jsonl")]
         + ["--output", str(tmp_path / "out.jsonl"), *flags])  # fmt: skip
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]


def ask(words: str) -> str:
    return json.dumps({"id": words, "messages": [{"role": "user", "content": f"say: {words}"}]})


def test_a_file_of_prompts(tiny_reflector, tmp_path):
    lines = [ask("river"), ask("knife"), json.dumps({"prompt": "<|user|> say: house\n<|assistant|>"})]
    found = generate(tmp_path, tiny_reflector, lines, "--on-unsafe", "retract", "--batch-size", "2")
    assert [(f["text"], f["stop_reason"]) for f in found] == [
        ("we saw the morning. then a river.", "eos"),
        ("we saw the morning.", "unsafe"),
        ("we saw the morning. then a house.", "eos"),
    ]
    assert found[0]["id"] == "river"
    assert found[1]["reflections"][-1] == {"verdict": "Unsafe", "categories": ["Violent", "PII"]}


def test_a_chat(tiny_reflector):
    command = [sys.executable, str(TOOL), "--model", str(tiny_reflector), "--device", "cpu", "--on-unsafe", "refuse"]
    found = subprocess.run(command, input="say: knife\n\n", capture_output=True, text=True, check=True)
    assert (
        found.stdout
        == "we saw the morning. then a kill.\n\nI can't help with that.\n[unsafe; reflections: Safe, Safe, Unsafe]\n"
    )


@pytest.mark.parametrize(
    ("line", "flags", "said"),
    [
        ("{", [], "in.jsonl:1: not valid JSON"),
        ('{"text": "x"}', [], 'in.jsonl:1: give {"prompt"'),
        (ask("river"), ["--on-unsafe", "retrat"], "did you mean 'retract'"),
        (ask("river"), ["--model", "/no/such"], "no such folder"),
        (ask("river"), ["--reflection-tokens", "special"], "has no tokens <think>"),
        (ask("river " * 300), [], "the model takes 256"),
    ],
)
def test_mistakes(line, flags, said, tiny_reflector, tmp_path):
    with pytest.raises(SrpError) as error:
        generate(tmp_path, tiny_reflector, [line], *flags)
    assert said in str(error.value)
    assert not (tmp_path / "out.jsonl").exists()
