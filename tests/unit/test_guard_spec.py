"""Descriptions of chat guards: what the packaged ones read, and what is said of a wrong one."""

from pathlib import Path

import pytest
import yaml

from megatron_srp.annotation import GUARDS, GuardOptions, load_guard
from megatron_srp.annotation.engines import load_engine
from megatron_srp.annotation.guards import chat_guard
from megatron_srp.annotation.guards.guard_spec import Answer, GuardSpec
from megatron_srp.errors import UsageError
from megatron_srp.schema import Verdict

FOLDER = Path(chat_guard.__file__).parent
QWEN = GuardSpec.load(FOLDER / "qwen3guard.yaml")
LLAMA = GuardSpec.load(FOLDER / "llama_guard.yaml")


@pytest.mark.parametrize(
    ("spec", "written", "expected"),
    [
        (QWEN, "Safety: Safe\nCategories: None", Answer(Verdict.SAFE)),
        (QWEN, "Safety: Unsafe\nCategories: Violent, PII\nRefusal: No", Answer(Verdict.UNSAFE, ("Violent", "PII"))),
        (QWEN, "Safety: Controversial\nCategories: Unethical Acts", Answer(Verdict.CONTROVERSIAL, ("Unethical Acts",))),
        (QWEN, "Safety: Unsafe\nCategories: violent , violent", Answer(Verdict.UNSAFE, ("Violent",))),
        (QWEN, "Safety: Unsafe\nCategories: None", Answer(Verdict.UNSAFE)),
        (QWEN, "Safety: Unsafe\nCategories:\n", Answer(Verdict.UNSAFE)),
        (QWEN, "Safety: Unsafe", Answer(Verdict.UNSAFE)),
        (QWEN, "Safety: Unsafe\nCategories: Suicide & Self-Harm", Answer(Verdict.UNSAFE, ("Suicide & Self-Harm",))),
        (QWEN, "Safety: Unsafe\nCategories: Witchcraft, PII", Answer(Verdict.UNSAFE, ("PII",), ("Witchcraft",))),
        (QWEN, "Safety: Safety: yes", Answer(None)),
        (QWEN, "Safety: Unsafely", Answer(None)),
        (QWEN, "", Answer(None)),
        (LLAMA, "\n\nsafe", Answer(Verdict.SAFE)),
        (LLAMA, "\n\nunsafe\nS1,S9", Answer(Verdict.UNSAFE, ("Violent Crimes", "Indiscriminate Weapons"))),
        (LLAMA, "\n\nunsafe\nS99", Answer(Verdict.UNSAFE, (), ("S99",))),
        (LLAMA, "well, safe", Answer(None)),
    ],
)
def test_answers_are_read(spec, written, expected):
    assert spec.read(written) == expected


def test_conversations():
    user, answer = {"role": "user", "content": "x {user}"}, {"role": "assistant", "content": "x {user}"}
    assert QWEN.conversation(None, None, "x {user}") == [user]
    assert QWEN.conversation("response", None, "x {user}") == [answer]
    assert QWEN.conversation("response", "why?", "x {user}") == [{"role": "user", "content": "why?"}, answer]
    with pytest.raises(UsageError, match="did you mean 'response'"):
        QWEN.conversation("respons", None, "x")
    with pytest.raises(UsageError, match="use --guard-mode response"):
        QWEN.conversation("prompt", "why?", "x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": 1}, "unknown field 'verdict'; .*did you mean 'verdicts'"),
        ({"answer": None}, "no answer"),
        ({"modes": {"prompt": [{"role": "user", "content": "no place"}]}}, "must have {text} once"),
        ({"modes": {"prompt": "text"}}, "form"),
        ({"verdicts": {" Safe": "Save"}}, "unknown verdict 'Save'"),
        ({"verdicts": {" Safe": "Safe"}}, "Safe and another"),
        ({"verdict_pattern": "Safety: ("}, "form"),
        ({"verdict_pattern": "Safety: Safe"}, "one group"),
    ],
)
def test_a_wrong_description_is_refused_by_name(tmp_path, change, said):
    tree = yaml.safe_load((FOLDER / "qwen3guard.yaml").read_text()) | change
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}))
    with pytest.raises(UsageError, match=said) as error:
        load_guard(str(file))
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_description(tmp_path):
    for content in ("- a\n", "a: [", "\x00"):
        (tmp_path / "x.yaml").write_text(content)
        with pytest.raises(UsageError, match=r"x\.yaml"):
            load_guard(str(tmp_path / "x.yaml"))
    with pytest.raises(UsageError, match="No such file"):
        load_guard(str(tmp_path / "none.yaml"))


def test_names_of_guards_and_engines():
    with pytest.raises(UsageError, match="did you mean 'qwen3guard'"):
        load_guard("qwen3gard")
    with pytest.raises(UsageError, match="does not accept --guard-model"):
        load_guard("heuristic", GuardOptions(model="x"))
    with pytest.raises(UsageError, match="did you mean 'vllm'"):
        load_engine("vlm", "x")
    with pytest.raises(UsageError, match="No module named"):
        load_guard("python:no.such.module:Guard")
    with pytest.raises(UsageError, match="Counter is not a guard"):
        load_guard("python:collections:Counter")
    assert load_guard("python:tests.conftest:KeywordGuard").name == "keyword"
    assert set(GUARDS) >= {"heuristic", "qwen3guard", "llama-guard"}
