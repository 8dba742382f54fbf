"""The hf engine on a GPU: FlashAttention over packed segments gives what float32 on the CPU gives."""

import numpy as np
import pytest
import torch

from megatron_srp.annotation.engines.hf_attention import flash_works
from megatron_srp.annotation.engines.hf_engine import HFEngine
from tests.integration.test_hf_engine import CANDIDATES, random_prompts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def test_flash_attention_is_used():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs an A100 or newer")
    assert flash_works(0)


@pytest.mark.parametrize("options", [{}, {"compile": True}, {"dtype": "float32"}, {"batch_tokens": 100}])
def test_logprobs_and_continuations(tiny_guard, options):
    prompts = random_prompts(0, 40)
    exact, engine = HFEngine(tiny_guard, device="cpu"), HFEngine(tiny_guard, device="cuda", **options)
    expected = exact.next_token_logprobs(prompts, CANDIDATES)
    tolerance = 1e-3 if options.get("dtype") else 0.3
    np.testing.assert_allclose(engine.next_token_logprobs(prompts, CANDIDATES), expected, atol=tolerance)
    if options.get("dtype"):
        found = engine.generate(prompts, 5, [])
        assert [ids.tolist() for ids in found] == [ids.tolist() for ids in exact.generate(prompts, 5, [])]
