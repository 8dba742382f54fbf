"""`srp generate` as a user runs it."""

import io
import json
import os
import pty
import select
import sys

import pytest

from megatron_srp.cli.generate import main
from megatron_srp.errors import SrpError, UsageError
from megatron_srp.generation.answers_file import AnswersFile
from megatron_srp.generation.engines.base import GuardedEngine
from megatron_srp.generation.guard.policy import ForcedReflection, Generation
from tests.helpers.commands import SRP


def generate(tmp_path, model, lines, *flags):
    (tmp_path / "in.jsonl").write_text("".join(line + "\n" for line in lines))
    main(["--model", str(model), "--device", "cpu", "--input", str(tmp_path / "in.jsonl")]
         + ["--out", str(tmp_path / "out.jsonl"), *flags])  # fmt: skip
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


def test_prompts_for_a_chat_model(tiny_reflector, tmp_path, capsys):
    """Its raw prompts are continued, as before, but not silently."""
    lines = [json.dumps({"id": 1, "prompt": "say: river"}), ask("house")]
    (raw, _) = generate(tmp_path, tiny_reflector, lines)
    note = "note: the model has a chat template, but 1 of the lines have a `prompt`, which is continued as raw text"
    assert capsys.readouterr().err.count(note) == 1
    assert raw["text"] != "we saw the morning. then a river."
    (tmp_path / "out.jsonl").unlink()
    found = generate(tmp_path, tiny_reflector, lines, "--chat")
    assert note not in capsys.readouterr().err
    assert [answer["text"] for answer in found] == [
        f"we saw the morning. then a {word}." for word in ("river", "house")
    ]
    assert found[0]["id"] == 1 and found[0]["messages"] == [{"role": "user", "content": "say: river"}]
    with pytest.raises(UsageError, match="--chat is for the prompts of --input"):
        main(["--model", str(tiny_reflector), "--chat"])


def test_a_run_that_was_stopped_resumes(tiny_reflector, tmp_path, monkeypatch):
    lines, flags = [ask(word) for word in ("river", "knife", "house", "bomb")], ["--batch-size", "2"]
    add = AnswersFile.add

    def stop_at_the_second(file, index, record):
        if file.done:
            raise KeyboardInterrupt
        add(file, index, record)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(AnswersFile, "add", stop_at_the_second)
        generate(tmp_path, tiny_reflector, lines, *flags)
    _, first = [json.loads(line) for line in (tmp_path / "out.jsonl.partial").read_text().splitlines()]
    with pytest.raises(UsageError, match="holds answers of another model, other prompts or other flags"):
        generate(tmp_path, tiny_reflector, lines, *flags, "--on-unsafe", "retract")
    found = generate(tmp_path, tiny_reflector, lines, *flags)
    assert [answer["id"] for answer in found] == ["river", "knife", "house", "bomb"]
    assert found[first["prompt"]] == first["answer"] and found[0]["text"] == "we saw the morning. then a river."


class Terminal:
    """A command of srp in a terminal of its own."""

    def __init__(self, *command) -> None:
        self.process, self.terminal = pty.fork()
        if not self.process:
            os.execv(sys.executable, [*SRP, *map(str, command)])
        self.shown = ""

    def until(self, text: str) -> str:
        """What it shows until it shows `text`, which it may have to wait for."""
        while text not in self.shown:
            ready, _, _ = select.select([self.terminal], [], [], 600)
            assert ready, self.shown
            self.shown += os.read(self.terminal, 4096).decode()
        found, self.shown = self.shown.split(text, 1)
        return found

    def type(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())


def test_a_chat_in_a_terminal(tiny_reflector):
    chat = Terminal(
        "generate", "--model", tiny_reflector, "--device", "cpu", "--on-unsafe", "refuse", "--reflect-prompt"
    )
    assert "Ctrl-C ends an answer" in chat.until("\n> ")
    chat.type("say: knife\n")
    assert "we saw the morning. then a kill.\r\n\r\nI can't help with that.\r\n[unsafe; " in chat.until("> ")
    chat.type("\x04")  # the end of input
    assert os.waitpid(chat.process, 0)[1] == 0
    os.close(chat.terminal)


@pytest.fixture
def talk(tiny_reflector, monkeypatch, capsys):
    """What is printed of a conversation with these lines, from a pipe."""

    def run(*lines: str, flags: tuple[str, ...] = ()) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        main(["--model", str(tiny_reflector), "--device", "cpu", *flags])
        return capsys.readouterr().out

    return run


def test_a_chat_through_a_pipe(talk):
    said = talk("say: knife", "", "say: river", flags=("--on-unsafe", "refuse"))
    assert said == (
        "we saw the morning. then a kill.\n\nI can't help with that.\n[unsafe; reflections: Safe, Safe, Unsafe]\n"
    )


def test_a_chat_goes_on_when_it_is_too_long(talk):
    said = talk("say: house", "river " * 300, *["say: " + "river " * 30] * 12)
    assert "[the prompt has" in said
    assert said.count("[the conversation is too long for the model and restarts here]") >= 1
    assert said.count("reflections: ") == 13


def test_what_a_model_writes_does_not_steer_the_terminal(talk, monkeypatch):
    def generate(self, requests, on_text):
        on_text(0, "a\x1b[2J\x07\tb\n\u009b31m")
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        return [Generation("x", (), "eos", 1, (ForcedReflection(0, 0.75, 0.05, 0.2),))]

    monkeypatch.setattr(GuardedEngine, "generate", generate)
    monkeypatch.setattr(GuardedEngine, "interrupted", True, raising=False)
    answer = "a\ufffd[2J\ufffd\tb\n\ufffd31m\n"
    assert talk("x", "y") == f"{answer}[interrupted]\n{answer}[eos; reflections: none; forced: 1, at most 25% unsafe]\n"


@pytest.mark.parametrize(
    ("line", "flags", "said"),
    [
        ("{", [], "in.jsonl:1: not valid JSON"),
        ('{"text": "x"}', [], 'in.jsonl:1: needs {"prompt"'),
        (ask("river"), ["--on-unsafe", "retrat"], "did you mean 'retract'"),
        (ask("river"), ["--model", "/no/such"], "no such folder"),
        (ask("river"), ["--reflection-tokens", "special"], "has no tokens <think>"),
        (ask("river " * 300), [], "including the answer; shorten it"),
    ],
)
def test_mistakes(line, flags, said, tiny_reflector, tmp_path):
    with pytest.raises(SrpError) as error:
        generate(tmp_path, tiny_reflector, [line], *flags)
    assert said in str(error.value)
    assert not (tmp_path / "out.jsonl").exists()
