"""Conversations as tensors, token by token; the two ways in which attention is kept inside each."""

import itertools
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.datasets.utils import Split

from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import STOP, Conversation, Kind, Part, Turn
from megatron_srp.sft.encode import ConversationEncoder
from megatron_srp.sft.template import load_template
from megatron_srp.sft.training_set import Sequences, Source, TrainingSet
from megatron_srp.tokenization import TextTokenizer
from megatron_srp.training.datasets.sft_batch import (
    block_causal_mask,
    conversation_bounds,
    packed_parameters,
    prepare_attention,
)
from megatron_srp.training.datasets.sft_dataset import KEYS, PackedConversations
from tests.helpers.conversations import SAFE, UNSAFE, text
from tests.helpers.sft_shards import of_lengths, write_sft_shard

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def dataset(prefix: str, seq_length: int, count: int = 1) -> PackedConversations:
    return PackedConversations(Sequences(TrainingSet([Source(prefix)], seq_length, 0), count, epochs=1), Split.train)


def test_every_token_of_a_sequence(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    """From turns to labels: what is written, and next to it, by hand, whether it is learned."""
    eos = tokenizer.require_eos()
    recovery = (Part(Kind.TEXT, "Sure, first", trained=False), UNSAFE, STOP, text(" I can't."), SAFE)
    turns = [
        (Turn.of("user", "kill"), Turn("assistant", recovery)),
        (Turn.of("user", "Hi"), Turn("assistant", (SAFE, text("Hello."), SAFE))),
    ]
    expected: list[list[tuple[Any, int]]] = [
        [
            ("User: kill\nAssistant:", 0),
            (" Sure, first", 0),
            (" <think> Unsafe: Violent, PII </think>", 1),
            (eos, 1),
            (" I can't.", 1),
            (" <think> Safe </think>", 1),
            (eos, 1),
        ],
        [
            ("User: Hi\nAssistant:", 0),
            (" <think> Safe </think>", 1),
            (" Hello.", 1),
            (" <think> Safe </think>", 1),
            (eos, 1),
        ],
    ]
    encode = ConversationEncoder(load_template(tokenizer, "plain"), ReflectionFormat())
    encoded = [encode(Conversation("i", "s", own)) for own in turns]
    prefix = write_sft_shard(tmp_path / "a", [(e.ids.tolist(), e.mask.tolist()) for e in encoded])
    sample = dataset(prefix, 256)[0]
    rows = []
    for pieces in expected:  # the longer one is packed first
        tokens = [
            (token, learned)
            for piece, learned in pieces
            for token in ([piece] if isinstance(piece, int) else tokenizer.encode(piece))
        ]
        rows += [(a, b, learned, i) for i, ((a, _), (b, learned)) in enumerate(itertools.pairwise(tokens))]
    padding = 256 - len(rows)
    assert padding > 50
    rows += [(0, 0, 0, i) for i in range(padding)]
    for key, column in zip(KEYS, zip(*rows, strict=True), strict=True):
        assert sample[key].tolist() == list(column), key
    assert sum(sample["labels"][sample["loss_mask"] == 1] == eos) == 3  # the stop, and two ends


def test_a_full_and_an_empty_sequence(tmp_path: Path) -> None:
    conversations = of_lengths([33])
    samples = dataset(write_sft_shard(tmp_path / "a", conversations), 32, count=2)
    assert samples[0]["tokens"].tolist() == conversations[0][0][:-1]
    assert samples[0]["labels"].tolist() == conversations[0][0][1:]
    assert samples[1]["loss_mask"].sum() == 0
    assert samples[1]["position_ids"].tolist() == list(range(32))


def positions(*lengths: int) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])


def test_attention_stays_inside_a_conversation() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = [rng.multinomial(24, [0.25] * 4) for _ in range(2)]
        lengths = [[n for n in row.tolist() if n] for row in rows]
        position_ids = torch.stack([positions(*own) for own in lengths])
        mask = block_causal_mask(position_ids)
        assert mask.shape == (2, 1, 24, 24) and mask.dtype is torch.bool
        for row, own in enumerate(lengths):
            numbers = np.repeat(np.arange(len(own)), own)
            for query in range(24):
                for key in range(24):
                    sees = key <= query and numbers[key] == numbers[query]
                    assert bool(mask[row, 0, query, key]) != sees


def test_packed_parameters() -> None:
    position_ids = torch.stack([positions(3, 2, 5), positions(10)])
    assert conversation_bounds(position_ids).tolist() == [0, 3, 5, 10, 20]
    packed = packed_parameters(position_ids)
    assert packed.qkv_format == "thd"
    assert packed.cu_seqlens_q is packed.cu_seqlens_kv and packed.cu_seqlens_q.dtype is torch.int32
    assert (packed.max_seqlen_q, packed.max_seqlen_kv) == (10, 10)


SETTINGS = {
    "dataloader_type": "single",
    "cuda_graph_impl": "none",
    "transformer_impl": "transformer_engine",
    "pipeline_model_parallel_size": 1,
    "micro_batch_size": 2,
    "window_size": None,
    "masked_softmax_fusion": True,
}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"dataloader_type": "cyclic"}, "--dataloader-type cyclic"),
        ({"cuda_graph_impl": "local"}, "--cuda-graph-impl"),
        ({"pipeline_model_parallel_size": 2}, "pass --micro-batch-size 1"),
        ({"transformer_impl": "local", "window_size": (8, 0)}, "--window-size replaces the mask"),
    ],
)
def test_what_would_let_conversations_see_each_other(changed: dict[str, object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        prepare_attention(Namespace(**SETTINGS | changed))


def test_no_kernel_that_looks_at_no_mask() -> None:
    args = Namespace(**SETTINGS | {"transformer_impl": "local"})
    prepare_attention(args)
    assert args.masked_softmax_fusion is False
