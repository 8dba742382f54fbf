"""The guard over vLLM, whose engine is stood in for by the model in miniature behind vLLM's recorded API: the
answers are those of transformers. With vLLM and a GPU, tests/gpu runs it for real."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_srp.errors import UsageError
from megatron_srp.generation.engines.hf.model import GuardedModel
from megatron_srp.generation.engines.request import Answer, Options, Sampling
from megatron_srp.generation.engines.vllm import VLLMModel
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.reflection import ReflectionFormat
from tests.helpers.recorded_vllm import API, RECORD, record, signature

FORM = ReflectionFormat()


class RecordedEngine:
    """vLLM's engine as its record and source describe it: one token for each request in each step."""

    def __init__(self, folder: str, stream_interval: int = 1) -> None:
        self.network = AutoModelForCausalLM.from_pretrained(folder)
        self.interval = stream_interval
        self.requests: dict[str, SimpleNamespace] = {}
        self.added: list[SimpleNamespace] = []
        self.aborted: list[str] = []
        settings = SimpleNamespace(eos_token_id=self.network.generation_config.eos_token_id)
        self.model_config = SimpleNamespace(max_model_len=257, try_get_generation_config=lambda: vars(settings))

    def add_request(self, *args, **kwargs):
        given = signature("LLMEngine.add_request").bind(*args, **kwargs).arguments
        assert isinstance(given["request_id"], str) and given["request_id"] not in self.requests
        assert set(given["prompt"]) == {"prompt_token_ids"}
        params = given["params"]
        assert params.max_tokens >= 1 and isinstance(params.stop_token_ids, list | None)
        assert all(type(token) is int for token in given["prompt"]["prompt_token_ids"])
        assert len(given["prompt"]["prompt_token_ids"]) < self.model_config.max_model_len
        request = SimpleNamespace(ids=list(given["prompt"]["prompt_token_ids"]), written=[], params=params)
        self.requests[given["request_id"]] = request
        self.added.append(request)

    def abort_request(self, *args, **kwargs):
        for name in signature("LLMEngine.abort_request").bind(*args, **kwargs).arguments["request_ids"]:
            self.aborted.append(name)
            self.requests.pop(name, None)

    @torch.inference_mode()
    def step(self):
        signature("LLMEngine.step").bind()
        found = [self._bring_on(name, request) for name, request in list(self.requests.items())]
        return [output for output in found if output]

    def _bring_on(self, name, request):
        params = request.params
        logprobs = self.network(torch.tensor([request.ids + request.written])).logits[0, -1].log_softmax(-1)
        request.written.append(int(logprobs.argmax()))
        last = request.written[-1]
        assert params.ignore_eos  # else vLLM would end at its own idea of an end
        stopped = last in (params.stop_token_ids or [])
        ended = stopped or len(request.written) >= params.max_tokens
        if ended:
            del self.requests[name]
        elif len(request.written) % self.interval:
            return None
        listed = {i: record("Logprob", logprob=float(logprobs[i])) for i in params.logprob_token_ids or []}
        fields = {"index": 0, "text": "", "token_ids": request.written, "cumulative_logprob": None}
        finish = {"finish_reason": ("stop" if stopped else "length") if ended else None}
        output = record("CompletionOutput", **fields, **finish, logprobs=[listed] if listed else None)
        fields = {"request_id": name, "prompt": None, "prompt_token_ids": request.ids, "prompt_logprobs": None}
        return record("RequestOutput", **fields, outputs=[output], finished=ended)


@pytest.fixture(params=[1, 4], ids=["each token", "four at a time"])
def model(tiny_reflector, monkeypatch, request) -> VLLMModel:
    def from_engine_args(*args, **kwargs):
        given = signature("LLMEngine.from_engine_args").bind(*args, **kwargs).arguments["engine_args"]
        return RecordedEngine(given.model, request.param)

    module: Any = ModuleType("vllm")
    module.EngineArgs = lambda **given: record("EngineArgs", **given)
    module.LLMEngine = SimpleNamespace(from_engine_args=from_engine_args)
    module.SamplingParams = lambda **given: record("SamplingParams", **given)
    module.TokensPrompt = dict
    assert {"EngineArgs", "LLMEngine", "SamplingParams", "TokensPrompt"} <= set(RECORD["exported"])
    assert API["ModelConfig.try_get_generation_config"] == []
    monkeypatch.setitem(sys.modules, "vllm", module)
    return VLLMModel(str(tiny_reflector), FORM)


def requests(model, policies):
    words = ["river", "knife", "kill", "house morning", "bomb"]
    asked = [([{"role": "user", "content": f"say: {word}"}], policy) for word in words for policy in policies]
    found = [
        model.chat(turns, Options(policy, Sampling(), 40), " we" * (policy.reflect_every == 3))
        for turns, policy in asked
    ]
    return [*found, model.complete("the river", Options(GuardPolicy("off", reflect_every=50), Sampling(), 3))]


def test_answers_are_those_of_transformers(model, tiny_reflector):
    policies = [
        GuardPolicy("stop"),
        GuardPolicy("retract", reflect_every=3),
        GuardPolicy("off", reflect_every=2),
        GuardPolicy("refuse", stop_at=frozenset({FORM.parse("<think> Unsafe </think>").verdict})),
    ]
    other = GuardedModel(str(tiny_reflector), FORM, "cpu")
    assert model.max_length == other.max_length == 256
    shown = [""] * 21

    def show(index, text):
        shown[index] += text

    ours = model.generator.generate(requests(model, policies), show)
    theirs = other.generator.generate(requests(other, policies))
    for one, two in zip(ours, theirs, strict=True):
        assert (one.text, one.reflections, one.stop_reason, one.num_tokens) == (
            two.text,
            two.reflections,
            two.stop_reason,
            two.num_tokens,
        )
        assert [f.num_tokens for f in one.forced] == [f.num_tokens for f in two.forced]
        for a, b in zip(one.forced, two.forced, strict=True):
            assert a == pytest.approx(b, abs=1e-5)
    assert shown == [generation.text for generation in ours]
    assert {generation.stop_reason for generation in ours} == {"eos", "unsafe", "length"}
    assert not model.generator._engine.requests


def test_an_answer_that_ends_early_is_aborted(model):
    engine = model.generator._engine
    answers = [
        Answer(request, model.vocabulary, lambda text: None) for request in requests(model, [GuardPolicy("off")])[:2]
    ]
    session = model.generator.session()
    session.add(answers)
    session.step()
    answers[0].finish()
    session.step()
    assert session.answers == [answers[1]] and len(engine.requests) == 1 and len(engine.aborted) == 1
    session.close()
    assert not engine.requests and not session.answers


def test_draws_have_a_seed_of_their_own_for_each_piece(model):
    engine = model.generator._engine
    turns = [{"role": "user", "content": "say: river"}]
    for seed in (1, 2):
        options = Options(GuardPolicy("off", reflect_every=4), Sampling(0.7, 0.9, seed), 40)
        model.generator.generate([model.chat(turns, options)])
    pieces = [request.params for request in engine.added if request.params.temperature]
    assert all(params.temperature == 0.7 and params.top_p == 0.9 for params in pieces)
    assert len({params.seed for params in pieces}) == len(pieces) > 10


def test_without_vllm_and_without_a_gpu(model, monkeypatch):
    def fail(_):
        raise RuntimeError("no\nGPU")

    monkeypatch.setattr(sys.modules["vllm"].LLMEngine, "from_engine_args", fail)
    with pytest.raises(UsageError, match=r"--engine vllm: folder cannot be loaded .RuntimeError: no GPU"):
        VLLMModel("folder", FORM)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match=r"--engine vllm needs vllm, not installed here; pip install"):
        VLLMModel("folder", FORM)
