"""The answers of `srp generate` survive a kill, and end up in the order of the prompts."""

import json

import pytest

from megatron_srp.errors import OutputError, UsageError
from megatron_srp.generation.answers_file import AnswersFile

SETTINGS = {"model": "a", "prompts": [1, 2, 3]}


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("torn", ["", '{"prompt": 1, "ans', '{"prompt": 1, "answer": {"text": "é'])
def test_a_killed_run_resumes(torn, tmp_path):
    out = tmp_path / "out.jsonl"
    with AnswersFile(out, SETTINGS) as file:
        for i in (2, 0):
            file.add(i, {"text": f"é{i}"})
    assert not out.exists()
    with (tmp_path / "out.jsonl.partial").open("a") as partial:
        partial.write(torn)
    with AnswersFile(out, SETTINGS) as file:
        assert file.done == {0, 2}
        file.add(1, {"text": "é1"})
        file.finish()
    assert lines(out) == [{"text": f"é{i}"} for i in range(3)]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_answers_of_another_command_are_kept(tmp_path):
    out = tmp_path / "out.jsonl"
    with AnswersFile(out, SETTINGS) as file:
        file.add(0, {"text": "x"})
    before = (tmp_path / "out.jsonl.partial").read_bytes()
    with pytest.raises(UsageError, match=r"out\.jsonl\.partial holds answers of another model"):
        AnswersFile(out, SETTINGS | {"model": "b"}).__enter__()
    with AnswersFile(out, SETTINGS), pytest.raises(UsageError, match="another run is writing"):
        AnswersFile(out, SETTINGS).__enter__()
    assert (tmp_path / "out.jsonl.partial").read_bytes() == before
    with pytest.raises(OutputError, match="No such file or directory"):
        AnswersFile(tmp_path / "none" / "out.jsonl", SETTINGS).__enter__()
