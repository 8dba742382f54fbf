"""The vLLM engine for real: the same verdicts as transformers gives, from a chat guard in miniature."""

import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")


def test_verdicts_are_those_of_transformers(tiny_guard):
    from megatron_srp.annotation import GuardOptions, load_guard
    from tests.helpers.tiny_guard import sample_text

    rng = random.Random(5)
    texts = [sample_text(rng) for _ in range(200)]
    judged = {}
    small = {"vllm": {"gpu_memory": 0.3, "max_num_seqs": 64}, "hf": {}}
    for engine, options in small.items():
        guard = load_guard("qwen3guard", GuardOptions(str(tiny_guard), engine=engine, engine_options=options))
        judged[engine] = guard.results(texts)
        guard.close()
    pairs = list(zip(judged["vllm"], judged["hf"], strict=True))
    assert all(a.score == pytest.approx(b.score, abs=0.05) for a, b in pairs)
    assert sum(a.label == b.label for a, b in pairs) >= 198
