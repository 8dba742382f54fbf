"""Verdicts of several tokens, read by the hf engine as plain passes of transformers read them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from megatron_srp.annotation import GuardOptions, load_guard
from megatron_srp.annotation.engines import Engine
from megatron_srp.annotation.guards.chat_guard import ChatGuard
from megatron_srp.annotation.guards.verdict_tokens import verdict_logprobs
from megatron_srp.errors import UsageError
from megatron_srp.schema import Verdict
from tests.integration.test_guard_prompts import changed_spec

TEXTS = ["the house across the river.", "they kill a house", "a bomb and she", ""]
# " Controls" begins with the first token of " Controversial".
FOUR = {" Controls": "Unsafe", " Controversial": "Controversial", " Safe": "Safe", " Unsafe": "Unsafe"}


def my_guard(tmp_path, model, verdicts: dict[str, str], **options) -> ChatGuard:
    pattern = "Safety:( .*)"
    changed_spec(tmp_path, verdicts=verdicts, verdict_pattern=pattern, min_mass=1e-9)
    guard = load_guard(str(tmp_path / "my.yaml"), GuardOptions(str(model), engine_options={"device": "cpu"}, **options))
    assert isinstance(guard, ChatGuard)
    return guard


class Watched(Engine):
    """An engine that counts its passes and says at most which token the model would write, as some servers do."""

    def __init__(self, engine: Engine, silent: bool) -> None:
        self._engine, self._silent = engine, silent
        self.max_length = engine.max_length
        self.passes: list[int] = []

    def next_token_logprobs(self, prompts, candidates):
        self.passes.append(len(prompts))
        found = self._engine.next_token_logprobs(prompts, candidates)
        return np.where(found == found.max(1, keepdims=True), 0.0, -np.inf) if self._silent else found

    def generate(self, *given):
        return self._engine.generate(*given)


def plain_logprobs(model, prompt: np.ndarray, path: list[int]) -> float:
    import torch

    ids = torch.tensor([[*prompt.tolist(), *path]])
    with torch.inference_mode():
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
    return sum(logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(path))


def test_each_verdict_has_the_probability_of_its_tokens(tiny_guard, tmp_path):
    from transformers import Qwen3ForCausalLM

    guard = my_guard(tmp_path, tiny_guard, FOUR)
    tokens, model = guard.builder.verdict_tokens, Qwen3ForCausalLM.from_pretrained(tiny_guard).eval()
    assert list(map(len, tokens.tree.reads)) == [2, 2, 1, 1]
    prompts = guard.builder.build(pa.array(TEXTS, pa.large_string()))
    engine = Watched(guard.engine, silent=False)
    found = verdict_logprobs(engine, prompts, tokens.tree)
    assert engine.passes == [4, 4]
    for row, prompt in zip(found, prompts, strict=True):
        expected = [plain_logprobs(model, prompt, [token for _, token in read]) for read in tokens.tree.reads]
        np.testing.assert_allclose(row, expected, atol=1e-3)


def test_only_texts_that_may_get_there_cost_a_second_pass(tiny_guard, tmp_path):
    guard = my_guard(tmp_path, tiny_guard, FOUR)
    guard.engine = engine = Watched(guard.engine, silent=True)
    judged = guard.results(TEXTS)
    assert [one.label.verdict for one in judged[:3]] == [Verdict.SAFE, Verdict.UNSAFE, Verdict.CONTROVERSIAL]
    assert all(np.isnan(one.score) and not one.failure for one in judged)
    assert engine.passes == [4, sum(one.label.verdict is Verdict.CONTROVERSIAL for one in judged)]


def test_what_all_verdicts_begin_with_is_given_and_costs_no_pass(tiny_guard, tmp_path):
    guard = my_guard(tmp_path, tiny_guard, {" Safe": "Safe", " Unsafe": "Unsafe"})
    spec = changed_spec(tmp_path, answer="", verdicts={"Safety: Safe": "Safe", "Safety: Unsafe": "Unsafe"})
    other = type(guard.builder)(spec, guard.builder.tokenizer)
    texts = pa.array(TEXTS, pa.large_string())
    for with_answer, whole in zip(guard.builder.build(texts), other.build(texts), strict=True):
        assert with_answer.tolist() == whole.tolist()
    assert other.verdict_tokens.tree == guard.builder.verdict_tokens.tree
    assert [i.tolist() for i in other.verdict_tokens.leads] == [i.tolist() for i in guard.builder.verdict_tokens.leads]


def test_an_answer_that_ends_within_a_verdicts_token(tiny_guard, tmp_path):
    spec = changed_spec(tmp_path, answer="Safety: ", verdicts={"Safe": "Safe", "Unsafe": "Unsafe"})
    guard = my_guard(tmp_path, tiny_guard, {" Safe": "Safe", " Unsafe": "Unsafe"})
    other = type(guard.builder)(spec, guard.builder.tokenizer)
    assert other.verdict_tokens.asked.tolist() == guard.builder.verdict_tokens.asked.tolist()


def test_verdicts_that_no_token_tells_apart_can_still_be_written(tiny_guard, tmp_path):
    alike = {" Safe": "Safe", " Safe enough": "Controversial", " Unsafe": "Unsafe"}
    with pytest.raises(
        UsageError, match=r"do not tell the verdicts ' Safe', ' Safe enough', .* or --guard-generate-all"
    ):
        my_guard(tmp_path, tiny_guard, alike)
    guard = my_guard(tmp_path, tiny_guard, alike, generate_all=True)
    assert [one.label.verdict for one in guard.results(TEXTS[:2])] == [Verdict.SAFE, Verdict.UNSAFE]


def test_categories_and_what_stands_before_them_fit_into_the_answer(tiny_guard):
    """The given part of an answer counts too: a prompt of all the room with it must not outgrow the context."""
    guard: Any = load_guard("qwen3guard", GuardOptions(str(tiny_guard), engine_options={"device": "cpu"}))
    asked: list[int] = []

    class Measured(Watched):
        def generate(self, prompts, max_new_tokens, stop_ids):
            asked.extend(len(prompt) + max_new_tokens for prompt in prompts)
            return super().generate(prompts, max_new_tokens, stop_ids)

    guard.engine = Measured(guard.engine, silent=False)
    guard.results(["a kill and the house. " * n for n in (1, 40, 100)])
    assert asked and max(asked) <= guard.engine.max_length
