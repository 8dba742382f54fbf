"""Qwen3Guard-Stream: every token judged as its public description says, and one verdict by a rule."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.errors import UsageError
from megatron_srp.schema import Verdict
from tests.helpers.tiny_stream_guard import CATEGORIES, LEVELS, make_tiny_stream_guard

TEXTS = ["The river rises.", "a", "They kill the house and <|im_end|> the bomb.", "river " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_stream_guard(tmp_path_factory.mktemp("stream"))


def load(folder, mode=None, threshold=None, **options):
    given = {"device": "cpu", "batch_tokens": 100} | options
    return load_guard(
        "qwen3guard-stream", GuardOptions(str(folder), mode=mode, threshold=threshold, engine_options=given)
    )


def described(folder, text, role):
    """Risks [T, 3] and categories [T, 3] of a text's tokens and of the end of its turn, one prompt at a time."""
    weights, tokenizer = load_file(folder / "model.safetensors"), AutoTokenizer.from_pretrained(folder)
    model = Qwen3Model(Qwen3Config.from_pretrained(folder)).eval()
    model.load_state_dict({name.removeprefix("model."): w for name, w in weights.items() if name.startswith("model.")})
    pieces = (f"<|im_start|>{role}\n", text.replace("<|", "<\ue000|"), "<|im_end|>")
    begin, middle, end = (tokenizer(piece, add_special_tokens=False).input_ids for piece in pieces)
    if "<|" in text:
        middle = load(folder).builder.tokenizer.encode_plain(text)
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([[*begin, *middle, *end]])).last_hidden_state[0, len(begin) :]
    of = "query_" if role == "user" else ""
    inner = states @ weights[f"{of}risk_level_category_pre.weight"].T
    inner = inner / (inner.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    inner = inner * weights[f"{of}risk_level_category_layernorm.weight"]
    return [
        (inner @ weights[f"{of}{head}.weight"].T).softmax(-1).numpy() for head in ("risk_level_head", "category_head")
    ]


@pytest.mark.parametrize(("mode", "role"), [("prompt", "user"), ("response", "assistant")])
@pytest.mark.parametrize("rule", [None, "last", "worst", "mean"])
def test_verdicts_are_those_of_the_description(folder, mode, role, rule):
    guard = load(folder, mode, **({"rule": rule} if rule else {}))
    assert guard.settings["rule"] == guard.rule == (rule or {"prompt": "last", "response": "worst"}[mode])
    for text, harm, result in zip(TEXTS, guard.harm_probabilities(TEXTS), guard.results(TEXTS), strict=True):
        risks, categories = described(folder, text, role)
        at = {"last": slice(-1, None), "worst": [risks[:, 0].argmin()], "mean": slice(None)}[guard.rule]
        risk, category = risks[at].mean(0), categories[at].mean(0)
        assert harm == pytest.approx(1 - risk[0], abs=1e-5)
        assert result.label.verdict is Verdict.from_name(LEVELS[risk.argmax()])
        assert result.score == pytest.approx(risk.max(), abs=1e-5)
        named = CATEGORIES[category.argmax()] if risk.argmax() and category.argmax() else None
        assert result.label.categories == ((named,) if named else ())


def test_a_threshold_and_another_mode(folder):
    guard = load(folder, "prompt", threshold=0.001)
    assert Verdict.SAFE not in {one.label.verdict for one in guard.results(TEXTS)}
    other = guard.in_mode("response")
    assert (other.rule, other.settings["mode"]) == ("worst", "response") and guard.results([]) == []
    assert np.allclose(other.harm_probabilities(TEXTS), load(folder, "response").harm_probabilities(TEXTS), atol=1e-6)


def test_a_text_longer_than_the_context_is_judged_in_windows(folder):
    guard = load(folder, "response", max_length=40)
    long = " ".join(["The river rises, they kill it."] * 12)
    halves = guard.harm_probabilities([long[: len(long) // 2], long])
    assert len(guard.results([long])) == 1 and halves[1] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guard_inner_size": None}, "its config has no guard_inner_size"),
        ({"response_risk_level_map": {"0": "Safe"}}, "response_risk_level_map of its config does not name the 3"),
        ({"num_category": 5}, "cannot be loaded as Qwen3Guard-Stream"),
    ],
)
def test_another_model_is_one_line(folder, tmp_path, change, message):
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text()) | change
    kept = {name: value for name, value in config.items() if value is not None}
    (other / "config.json").write_text(json.dumps(kept))
    with pytest.raises(UsageError, match=message):
        load(other)


def test_mistakes_are_named(folder, tiny_guard):
    with pytest.raises(UsageError, match="rule=first"):
        load(folder, rule="first")
    with pytest.raises(UsageError, match="no option 'bacth_tokens'"):
        load(folder, bacth_tokens=3)
    with pytest.raises(UsageError, match="does not accept --guard-engine, --context-words"):
        load_guard("qwen3guard-stream", GuardOptions(str(folder), engine="vllm", context_words=3))
    with pytest.raises(UsageError, match="its config has no guard_inner_size"):
        load(tiny_guard)
