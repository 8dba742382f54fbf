"""The guard over vLLM for real: the same answers and verdicts as with transformers."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")


def test_answers_and_verdicts_are_those_of_transformers(tiny_reflector):
    from megatron_srp.generation.engines.hf.model import GuardedModel
    from megatron_srp.generation.engines.request import Options, Sampling
    from megatron_srp.generation.engines.vllm import VLLMModel
    from megatron_srp.generation.guard.policy import GuardPolicy
    from megatron_srp.reflection import ReflectionFormat

    form = ReflectionFormat()
    models = [
        GuardedModel(str(tiny_reflector), form, "cuda", "float32"),
        VLLMModel(str(tiny_reflector), form, "float32", gpu_memory_utilization=0.3),
    ]
    policies = [GuardPolicy("refuse"), GuardPolicy("retract", reflect_every=4), GuardPolicy("off", reflect_every=2)]
    found = []
    for model in models:
        asked = [
            model.chat([{"role": "user", "content": f"say: {word}"}], Options(policy, Sampling(), 40))
            for word in ("river", "knife", "kill", "house")
            for policy in policies
        ]
        found.append(model.generator.generate(asked))
    for one, other in zip(*found, strict=True):
        assert (one.text, one.stop_reason) == (other.text, other.stop_reason)
        assert [f.num_tokens for f in one.forced] == [f.num_tokens for f in other.forced]
        for a, b in zip(one.forced, other.forced, strict=True):
            assert a == pytest.approx(b, abs=1e-2)
