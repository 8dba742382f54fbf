"""The guard over vLLM, whose engine is stood in for by the model in miniature: the answers are those of transformers.
tests/integration/test_real_vllm.py runs it on vLLM itself."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_srp.cli.generation_flags import load_from_args, settings_from_args
from megatron_srp.cli.serve import parse_arguments
from megatron_srp.errors import UsageError
from megatron_srp.generation.engines.hf.model import GuardedModel
from megatron_srp.generation.engines.prompt_judge import judge_prompts
from megatron_srp.generation.engines.request import Answer, Options, Sampling
from megatron_srp.generation.engines.vllm import VLLMModel
from megatron_srp.generation.guard.policy import DEFAULT_REFUSAL, GuardPolicy
from megatron_srp.reflection import ReflectionFormat

FORM = ReflectionFormat()


class StandInEngine:
    """Behaves as vLLM's engine: one token for each request in each step."""

    def __init__(self, folder: str, stream_interval: int = 1) -> None:
        self.network = AutoModelForCausalLM.from_pretrained(folder)
        self.interval = stream_interval
        self.requests: dict[str, SimpleNamespace] = {}
        self.added: list[SimpleNamespace] = []
        self.aborted: list[str] = []
        settings = SimpleNamespace(eos_token_id=self.network.generation_config.eos_token_id)
        self.model_config = SimpleNamespace(max_model_len=257, try_get_generation_config=lambda: vars(settings))

    def add_request(self, request_id, prompt, params):
        assert isinstance(request_id, str) and request_id not in self.requests
        assert params.max_tokens >= 1
        assert len(prompt["prompt_token_ids"]) < self.model_config.max_model_len
        request = SimpleNamespace(ids=list(prompt["prompt_token_ids"]), written=[], params=params)
        self.requests[request_id] = request
        self.added.append(request)

    def abort_request(self, request_ids):
        for name in request_ids:
            self.aborted.append(name)
            self.requests.pop(name, None)

    @torch.inference_mode()
    def step(self):
        found = [self._bring_on(name, request) for name, request in list(self.requests.items())]
        return [output for output in found if output]

    def _bring_on(self, name, request):
        params = request.params
        logprobs = self.network(torch.tensor([request.ids + request.written])).logits[0, -1].log_softmax(-1)
        request.written.append(int(logprobs.argmax()))
        last = request.written[-1]
        assert params.ignore_eos  # else vLLM would end at its own idea of an end
        stopped = last in (params.stop_token_ids)
        ended = stopped or len(request.written) >= params.max_tokens
        if ended:
            del self.requests[name]
        elif len(request.written) % self.interval:
            return None
        listed = {i: SimpleNamespace(logprob=float(logprobs[i])) for i in params.logprob_token_ids}
        output = SimpleNamespace(token_ids=request.written, logprobs=[listed])
        return SimpleNamespace(request_id=name, outputs=[output], finished=ended)


def sampling_params(**given):
    return SimpleNamespace(**{"stop_token_ids": [], "logprob_token_ids": []} | given)


@pytest.fixture(params=[1, 4], ids=["each token", "four at a time"])
def model(tiny_reflector, monkeypatch, request) -> VLLMModel:
    module: Any = ModuleType("vllm")
    module.EngineArgs = lambda **given: SimpleNamespace(**given)
    module.LLMEngine = SimpleNamespace(from_engine_args=lambda args: StandInEngine(args.model, request.param))
    module.SamplingParams, module.TokensPrompt = sampling_params, dict
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


def test_a_copy_in_transformers_judges_the_prompts_of_vllm(model, tiny_reflector):
    """Those that it stops cost vLLM nothing; the others are answered as without it."""
    turns = [[{"role": "user", "content": f"say: {word}"}] for word in ("river", "kill", "house")]
    alone = model.answer(turns, GuardPolicy("refuse"))
    engine = model.generator._engine
    asked = len(engine.added)
    judge_prompts(model, GuardedModel(str(tiny_reflector), device="cpu"), 0.5)
    judged = model.answer(turns, GuardPolicy("refuse"))
    assert (judged[1].text, judged[1].stop_reason, judged[1].tokens) == (DEFAULT_REFUSAL, "unsafe", ())
    assert [judged[0], judged[2]] == [alone[0], alone[2]] and alone[1].tokens
    assert len(engine.added) < 2 * asked


def test_without_vllm_and_without_a_gpu(model, monkeypatch):
    def fail(_):
        raise RuntimeError("no\nGPU")

    monkeypatch.setattr(sys.modules["vllm"].LLMEngine, "from_engine_args", fail)
    with pytest.raises(UsageError, match=r"--engine vllm: folder cannot be loaded .RuntimeError: no GPU"):
        VLLMModel("folder", FORM)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match=r"--engine vllm needs vllm, not installed here; pip install"):
        VLLMModel("folder", FORM)


def test_options_of_the_engine_are_passed_on(model, tiny_reflector, monkeypatch):
    given: dict[str, Any] = {}

    def engine_args(**fields):
        given.update(fields)
        return SimpleNamespace(**fields)

    def load(*flags):
        args = parse_arguments(["--model", str(tiny_reflector), *flags])
        return load_from_args(args, settings_from_args(args, args.model))

    monkeypatch.setattr(sys.modules["vllm"], "EngineArgs", engine_args)
    load("--engine", "vllm", "--engine-option", "max_model_len=512", "--engine-option", "quantization=fp8")
    assert (given["max_model_len"], given["quantization"]) == (512, "fp8")
    with pytest.raises(UsageError, match=r"^--engine-option 'x': pass NAME=VALUE, such as tensor_parallel_size=2$"):
        load("--engine", "vllm", "--engine-option", "x")
    with pytest.raises(UsageError, match=r"^--engine-option is for --engine vllm$"):
        load("--engine-option", "max_model_len=512")
