"""A micro-batch of packed conversations on one rank, with attention confined to each of them.

Shapes: b micro-batch size in sequences, s sequence length in tokens.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import mpu, tensor_parallel
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_srp.errors import UsageError
from megatron_srp.training.datasets.sft_dataset import KEYS


def prepare_attention(args: argparse.Namespace) -> None:
    """Refuse flags that let conversations see each other or do not support them; `args` are Megatron's, validated."""
    if args.dataloader_type != "single":
        raise UsageError(f"--dataloader-type {args.dataloader_type} would draw sequences itself; leave it out")
    if args.cuda_graph_impl != "none":
        raise UsageError("--cuda-graph-impl needs sequences of one length, which conversations are not; leave it out")
    if is_flat(args):
        if args.pipeline_model_parallel_size > 1 and args.micro_batch_size > 1:
            raise UsageError(
                f"--micro-batch-size {args.micro_batch_size} with --pipeline-model-parallel-size: with Transformer "
                "Engine stages pass one packed sequence at a time; pass --micro-batch-size 1, and a longer --seq-length"
            )
        return
    if args.window_size is not None:
        raise UsageError("--window-size replaces the mask that keeps conversations apart, without Transformer Engine")
    args.masked_softmax_fusion = False  # the fused kernel of causal attention ignores the mask


def is_flat(args: argparse.Namespace) -> bool:
    """Whether attention takes concatenated sequences, as Transformer Engine's does, rather than a mask."""
    return bool(args.transformer_impl == "transformer_engine")


def get_packed_batch(data_iterator: Iterator[dict[str, torch.Tensor]], flat: bool) -> dict[str, Any]:
    """The arguments of a GPTModel, on every rank of the tensor-parallel group, whose first rank reads the batch.

    Every pipeline stage needs all of them, to know where conversations begin.

    Args:
        flat: for Transformer Engine: tensors [1, b*s] and packed_seq_params. Otherwise they are [b, s], with an
            attention mask.
    """
    sample = next(data_iterator) if mpu.get_tensor_model_parallel_rank() == 0 else {}
    batch = tensor_parallel.broadcast_data(KEYS, sample, torch.int64)
    attention: dict[str, Any] = {"attention_mask": None}
    if flat:
        attention["packed_seq_params"] = packed_parameters(batch["position_ids"])
        batch = {key: tensor.reshape(1, -1) for key, tensor in batch.items()}
    else:
        attention["attention_mask"] = block_causal_mask(batch["position_ids"])
    return {"input_ids": batch.pop("tokens"), **batch, **attention}


def block_causal_mask(position_ids: torch.Tensor) -> torch.Tensor:
    """For Megatron's own attention: bool[b, 1, s, s], True where a query (row) does not see a key (column)."""
    conversation = (position_ids == 0).cumsum(dim=1)
    same = conversation[:, None, :, None] == conversation[:, None, None, :]
    return ~same.tril()


def packed_parameters(position_ids: torch.Tensor) -> PackedSeqParams:
    """For Transformer Engine, with the b sequences concatenated: where each conversation begins.

    The maximum length is set to that of a sequence, which avoids a GPU sync; rotary positions begin at 0 in each.
    """
    bounds = conversation_bounds(position_ids)
    longest = position_ids.size(1)
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def conversation_bounds(position_ids: torch.Tensor) -> torch.Tensor:
    """int32: where each conversation (or padding) begins in the b concatenated sequences, and where all end."""
    flat = position_ids.reshape(-1)
    starts = torch.nonzero(flat == 0).reshape(-1)
    return torch.cat([starts, starts.new_tensor([flat.numel()])]).to(torch.int32)
