"""The hf engine against the plainest way: one prompt after the other, whole, through transformers."""

import random
import threading

import numpy as np
import pytest

from megatron_srp.annotation.engines import Prompts, load_engine
from megatron_srp.annotation.engines.hf_engine import HFEngine
from megatron_srp.errors import UsageError
from megatron_srp.tokenization.base import TokenBatch

CANDIDATES = [5, 6, 7, 100]


@pytest.fixture(scope="module")
def reference(tiny_guard):
    from transformers import Qwen3ForCausalLM

    return Qwen3ForCausalLM.from_pretrained(tiny_guard).eval()


@pytest.fixture(scope="module")
def engine(tiny_guard) -> HFEngine:
    return HFEngine(tiny_guard, device="cpu", batch_tokens=200)


def random_prompts(seed: int, n: int, prefix: int = 20, longest: int = 60) -> Prompts:
    rng = np.random.default_rng(seed)
    rests = [rng.integers(0, 600, rng.integers(1, longest)).astype(np.int32) for _ in range(n)]
    return Prompts(rng.integers(0, 600, prefix).astype(np.int32), TokenBatch.from_arrays(rests))


def plain_logprobs(model, prompt: np.ndarray):
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor(prompt[None].astype(np.int64))).logits[0, -1].log_softmax(-1).numpy()


@pytest.mark.parametrize(("prefix", "longest"), [(20, 60), (0, 60), (1, 2), (3, 400)])
def test_logprobs_are_those_of_single_whole_prompts(engine, reference, prefix, longest):
    # 400 is more than the budget of a batch.
    prompts = random_prompts(prefix, 25, prefix, longest)
    found = engine.next_token_logprobs(prompts, CANDIDATES)
    assert found.dtype == np.float32
    for row, prompt in zip(found, prompts, strict=True):
        np.testing.assert_allclose(row, plain_logprobs(reference, prompt)[CANDIDATES], atol=1e-4)


def test_continuations_are_the_greedy_ones(engine, reference):
    prompts = random_prompts(1, 12)
    stops = [int(plain_logprobs(reference, prompts[0]).argmax()), 17]  # the first prompt stops at once
    written = engine.generate(prompts, 6, stops)
    assert len(written[0]) == 0
    for ids, prompt in zip(written, prompts, strict=True):
        whole = prompt
        for _ in range(6):
            best = int(plain_logprobs(reference, whole).argmax())
            if best in stops:
                break
            whole = np.append(whole, best)
        assert ids.tolist() == whole[len(prompt) :].tolist()


def test_threads_and_changing_prefixes(engine, reference):
    sets = [random_prompts(seed, 8, prefix=5 + seed % 3) for seed in range(6)]
    alone = [engine.next_token_logprobs(prompts, CANDIDATES) for prompts in sets]
    found: list = [None] * len(sets)

    def work(i: int) -> None:
        found[i] = engine.next_token_logprobs(sets[i], CANDIDATES)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(sets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(found, alone, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_prompts(engine):
    empty = Prompts(np.arange(3, dtype=np.int32), TokenBatch.from_arrays([]))
    assert engine.next_token_logprobs(empty, CANDIDATES).shape == (0, 4)
    assert engine.generate(empty, 3, []) == []


def test_prompts_as_a_sequence():
    prompts = random_prompts(2, 5)
    assert len(list(prompts)) == 5
    assert prompts[-1].tolist() == prompts.prefix.tolist() + prompts.rests[4].tolist()
    assert [p.tolist() for p in prompts.take([3, 1])] == [prompts[3].tolist(), prompts[1].tolist()]
    with pytest.raises(IndexError):
        prompts[5]


def test_options_and_mistakes(tiny_guard, tmp_path):
    assert HFEngine(tiny_guard, device="cpu", max_length=100).max_length == 100
    for options, said in (
        ({"device": "gpu"}, "choose cuda"),
        ({"batch_tokens": "many"}, "batch_tokens=many: pass a number"),
        ({"batch_tokens": -5}, "at least 1"),
        ({"max_length": 0}, "at least 1"),
        ({"device": "cpu", "dtype": "int3"}, "choose from bfloat16"),
        ({"batch_token": 1}, "did you mean 'batch_tokens'"),
    ):
        with pytest.raises(UsageError, match=said):
            load_engine("hf", str(tiny_guard), **options)
    with pytest.raises(UsageError, match="no such folder"):
        load_engine("hf", str(tmp_path / "none"), device="cpu")


def test_revision_tells_weights_apart(tiny_guard, engine, tmp_path):
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(tiny_guard)
    model.model.norm.weight.data += 1
    model.save_pretrained(tmp_path)
    assert engine.revision == HFEngine(tiny_guard, device="cpu").revision != HFEngine(tmp_path, device="cpu").revision


def test_bfloat16_is_close(tiny_guard, engine):
    prompts = random_prompts(3, 10)
    half = HFEngine(tiny_guard, device="cpu", dtype="bfloat16").next_token_logprobs(prompts, CANDIDATES)
    np.testing.assert_allclose(half, engine.next_token_logprobs(prompts, CANDIDATES), atol=0.3)


@pytest.mark.exhaustive
def test_compiled_is_the_same(tiny_guard, engine):
    compiled = HFEngine(tiny_guard, device="cpu", batch_tokens=200, compile=True)
    for seed in range(3):
        prompts = random_prompts(seed, random.Random(seed).randrange(5, 20))
        expected = engine.next_token_logprobs(prompts, CANDIDATES)
        np.testing.assert_allclose(compiled.next_token_logprobs(prompts, CANDIDATES), expected, atol=1e-4)
