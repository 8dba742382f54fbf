"""The guards' vLLM engine on a stand-in for vLLM. tests/integration/test_real_vllm.py runs it on vLLM itself."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megatron_srp.annotation.engines import Prompts, load_engine
from megatron_srp.annotation.engines.vllm_engine import VLLMEngine
from megatron_srp.annotation.guards.verdict_tokens import verdict_logprobs
from megatron_srp.errors import GuardError, UsageError
from megatron_srp.tokenization import TokenBatch
from megatron_srp.verdict_tree import VerdictTree

EOS, SAFE, UNSAFE, UN, SURE = 0, 11, 12, 13, 14


class StandInLLM:
    """Says Unsafe where a prompt ends with 7, and writes its last two ids and an end."""

    def __init__(self, model, max_model_len=None, **_):
        self.model_config = SimpleNamespace(max_model_len=max_model_len or 4096)

    def generate(self, prompts, sampling_params, use_tqdm):
        return [self._answer(prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    def _answer(self, prompt, params):
        worst = prompt[-1] == 7
        scores = {SAFE: -3.0 if worst else -0.1, UNSAFE: -0.2 if worst else -4.0}
        scores |= {UN: -0.5} | ({SAFE: -2.0, SURE: -0.25} if prompt[-1] == UN else {})
        assert not params.allowed_token_ids or params.max_tokens == 1
        listed = {i: SimpleNamespace(logprob=scores[i]) for i in params.logprob_token_ids}
        written = [*prompt[-2:], EOS][: params.max_tokens]
        output = SimpleNamespace(token_ids=written, logprobs=[listed])
        return SimpleNamespace(outputs=[output])


def sampling_params(**given):
    return SimpleNamespace(**{"allowed_token_ids": [], "logprob_token_ids": []} | given)


@pytest.fixture
def engine(monkeypatch):
    module: Any = ModuleType("vllm")
    module.LLM = StandInLLM
    module.SamplingParams, module.TokensPrompt = sampling_params, dict
    monkeypatch.setitem(sys.modules, "vllm", module)
    return VLLMEngine("folder", max_length=512)


def prompts(*rests):
    return Prompts(np.array([1, 2], np.int32), TokenBatch.from_lists([list(rest) for rest in rests]))


def test_log_probabilities_of_the_candidates_in_their_order(engine):
    result = engine.next_token_logprobs(prompts([3], [7]), [UNSAFE, SAFE])
    assert result == pytest.approx(np.array([[-4.0, -0.1], [-0.2, -3.0]]))
    assert result.dtype == np.float32 and engine.max_length == 512
    assert engine.next_token_logprobs(prompts(), [UNSAFE, SAFE]).shape == (0, 2)


def test_verdicts_of_several_tokens(engine):
    tree = VerdictTree.of([[SAFE], [UN, SAFE], [UN, SURE]])
    found = verdict_logprobs(engine, prompts([3], [7]), tree)
    assert found == pytest.approx(np.array([[-0.1, -2.5, -0.75], [-3.0, -2.5, -0.75]]))
    assert verdict_logprobs(engine, prompts(), tree).shape == (0, 3)


def test_generation_ends_before_the_first_stop_token(engine):
    written = engine.generate(prompts([5, 6], [8]), 5, [EOS, 99])
    assert [ids.tolist() for ids in written] == [[5, 6], [2, 8]] and written[0].dtype == np.int32


def test_a_model_that_cannot_be_loaded_is_one_line(engine, monkeypatch):
    def fail(**_):
        raise RuntimeError("no\nGPU")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", fail)
    with pytest.raises(GuardError, match=r"--guard-engine vllm: folder cannot be loaded .RuntimeError: no GPU"):
        VLLMEngine("folder")


def test_without_vllm_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr("megatron_srp.annotation.engines.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"--guard-engine vllm needs vllm, not installed here; pip install 'megatron-srp\[annotate\]'"
    ):
        load_engine("vllm", "folder")
