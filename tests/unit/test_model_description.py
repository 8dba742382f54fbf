"""`srp.json`: what an exported model says about its reflections, and who listens."""

import json
import shutil
from pathlib import Path

import pytest

from megatron_srp.checkpoints.description import as_trained, describe_trained
from megatron_srp.errors import InputError, UsageError
from megatron_srp.generation.engines.prompted_model import PromptedModel
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.guard.reflection_guard import ReflectionGuard
from megatron_srp.generation.model_settings import ModelSettings
from megatron_srp.model_description import ModelDescription, describe_model
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict

TEXT, HINTED = ReflectionFormat(), ReflectionFormat(hints=True)
ONLY_UNSAFE = ReflectionFormat(stop_after=frozenset({Verdict.UNSAFE}))


def stage(form: ReflectionFormat | None, **shard) -> dict:
    described = form.describe() if form else None
    return {"reflection": described, "shards": [{"tokenizer": "t", "reflection": described, **shard}]}


@pytest.mark.parametrize(
    ("srp_data", "expected"),
    [
        (None, None),
        ({"reflection": None, "shards": []}, None),
        ({"reflection": None, "shards": [{"tokenizer": None, "reflection": None}]}, None),
        (stage(None, eos_id=3), ModelDescription(None, None, 3)),
        (stage(TEXT, max_words=100, eos_id=0), ModelDescription(TEXT, 100, 0)),
        # Fine-tuned on plain conversations: it still reflects as it was pretrained.
        ({**stage(None), "earlier": [stage(HINTED, max_words=20, eos_id=7)]}, ModelDescription(HINTED, 20, 7)),
        # What it learned earlier may still come: a hint, an end-of-text after Controversial.
        ({**stage(ONLY_UNSAFE), "earlier": [stage(HINTED)]}, ModelDescription(HINTED)),
    ],
)
def test_what_a_checkpoint_says(srp_data, expected):
    assert describe_trained(srp_data) == expected


@pytest.mark.parametrize("description", [ModelDescription(HINTED, 100, 5), ModelDescription(ONLY_UNSAFE)])
def test_an_import_keeps_it(description, tmp_path):
    assert describe_trained(as_trained(description)) == description
    description.write(tmp_path)
    assert describe_model(str(tmp_path)) == description


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "srp.json: not a description of a model"),
        ("[]", "srp.json: not a description of a model"),
        ('{"format_version": 2, "reflection": null}', "srp.json: format_version 2; this release reads 1"),
        ('{"format_version": 1, "reflection": {"open": "<a>"}}', "srp.json: not a description of a model"),
        ('{"format_version": 1, "reflection": null, "eod_id": "0"}', "max_words and eod_id are numbers"),
    ],
)
def test_a_damaged_one(content, said, tmp_path):
    (tmp_path / "srp.json").write_text(content)
    with pytest.raises(InputError) as error:
        describe_model(str(tmp_path))
    assert said in str(error.value)


@pytest.fixture
def folder(tmp_path: Path, tokenizer_models) -> Path:
    """A folder with a tokenizer and nothing of a model but its config."""
    shutil.copytree(tokenizer_models["gpt2"][1], tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def test_flags_agree_or_are_refused(folder):
    bare = ModelSettings.of(str(folder), guarded=False)
    assert bare.form == TEXT and bare.notes == (
        f"{folder} has no srp.json; assuming <think> as plain text, no hints, end-of-text after Controversial and "
        "Unsafe",
    )
    ModelDescription(None).write(folder)
    assert "was trained without reflections" in ModelSettings.of(str(folder)).notes[0]
    ModelDescription(ONLY_UNSAFE).write(folder)
    own = ModelSettings.of(str(folder), tokens="text", guarded=False)
    assert (own.form, own.stop_at, own.notes) == (ONLY_UNSAFE, ONLY_UNSAFE.stop_after, ())
    assert ModelSettings.of(str(folder), stop_after="Controversial").stop_at == {Verdict.CONTROVERSIAL}
    with pytest.raises(UsageError, match=r"--reflection-tokens special: .* was trained with text"):
        ModelSettings.of(str(folder), tokens="special")


@pytest.mark.parametrize("policy", ["stop", "retract"])
def test_a_model_with_hints_is_guarded_as_it_was_trained(policy, folder):
    """Without the description its hints were shown under `stop`, and everything was withheld under `retract`."""
    ModelDescription(HINTED, eod_id=5).write(folder)
    model = PromptedModel(str(folder))
    assert model.vocabulary.eos_ids >= {5, model.tokenizer.eos_token_id}
    hints = [SafetyLabel(Verdict.SAFE, hint=hint) for hint in ("A letter arrives.", "The river is wide.")]
    text = f"We saw the morning.{HINTED.text_inside(hints[0])} Then a river.{HINTED.text_inside(hints[1])}"
    guard = ReflectionGuard(model.vocabulary, GuardPolicy(policy))
    shown = "".join(guard.push(token) for token in model.text_tokenizer.encode_inside(text)) + guard.finish()
    assert shown == "We saw the morning. Then a river."
    assert list(guard.result().reflections) == hints


def test_the_file_as_documented(tmp_path):
    ModelDescription(HINTED, 100, 0).write(tmp_path)
    assert json.loads((tmp_path / "srp.json").read_text()) == {
        "format_version": 1,
        "reflection": {
            **{"open": "<think>", "close": "</think>", "stop_after": ["Controversial", "Unsafe"]},
            **{"controversial": "keep", "tokens": "text", "hints": True},
        },
        "max_words": 100,
        "eod_id": 0,
    }
