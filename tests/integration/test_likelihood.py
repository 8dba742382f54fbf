"""How likely a model finds many texts: batches against one full pass for each."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_srp.attacks.likelihood import Continuation, in_batches, score


@torch.no_grad()
def full_pass(network, prompt, continuation) -> float:
    logits = network(torch.tensor([[*prompt, *continuation.ids]])).logits[0].log_softmax(-1)
    found = [
        -float(logits[len(prompt) + i - 1, token])
        for i, (token, counts) in enumerate(zip(continuation.ids, continuation.counted, strict=True))
        if counts
    ]
    return sum(found) / len(found)


@pytest.mark.parametrize("shared", [0, 7])
def test_batched_scores_are_those_of_full_passes(shared: int) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    network = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(1)
    draw = lambda n: torch.randint(97, (n,), generator=generator).tolist()  # noqa: E731
    beginning = draw(shared)
    prompts = [[*beginning, i, *draw(n)] for i, n in enumerate([3, 11, 1, 11, 6, 0])]
    continuations = [Continuation.of(draw(5)), Continuation(tuple(draw(3)), (False, True, False))]
    loss, _ = score(network, prompts, continuations, batch_size=4)
    for prompt, found in zip(prompts, loss.tolist(), strict=True):
        assert found == pytest.approx(sum(full_pass(network, prompt, c) for c in continuations), abs=1e-5)


def test_a_batch_that_does_not_fit_is_halved() -> None:
    read: list[list[int]] = []

    def once(rows: list[int]) -> None:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("no room")
        read.append(rows)

    assert in_batches(once, list(range(5)), 8) == 2
    assert read == [[0, 1], [2, 3], [4]]
