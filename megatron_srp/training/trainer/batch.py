"""A micro-batch of pretraining on one rank, with every feature of Megatron's datasets that leaves documents whole.

Shapes: b micro-batch size in sequences, s sequence length in tokens; under context parallelism, of this rank's part.
"""

from collections.abc import Iterator
from typing import Any

from megatron.core import mpu
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.multi_token_prediction import mtp_on_this_rank
from megatron.core.utils import (
    flatten_batch_for_packed_sequences,
    get_batch_on_this_cp_rank,
    get_batch_on_this_tp_rank,
)
from megatron.training import get_args
from megatron.training.training import update_seqlen_stats_from_cu_seqlens
from megatron.training.utils import is_first_or_last_pipeline_stage

from megatron_srp.errors import UsageError

READ = (
    *("tokens", "labels", "loss_mask", "attention_mask", "position_ids"),
    *("cu_seqlens", "cu_seqlens_padded", "max_seqlen", "local_cp_size"),
)
PASSED_ON = ("position_ids", "attention_mask", "labels", "loss_mask")


def check_attention(args: Any) -> None:
    """Refuse what Megatron's own attention cannot do; `args` are Megatron's, validated."""
    for flag, given in (
        ("--context-parallel-size", args.context_parallel_size > 1),
        ("--dataloader-inter-document-masking", args.dataloader_inter_document_masking),
    ):
        if given and args.transformer_impl != "transformer_engine":
            raise UsageError(
                f"{flag} needs the attention of Transformer Engine, and so a GPU; leave it out, or --transformer-impl"
            )


def predicts_more_tokens(config: Any, vp_stage: int | None) -> bool:
    """Whether this rank's stage has layers that predict several tokens, which read the tokens as the first does."""
    return mtp_on_this_rank(
        layout=config.pipeline_model_parallel_layout,
        mtp_num_layers=config.mtp_num_layers,
        ignore_virtual=False,
        vp_stage=vp_stage,
    )


def get_batch(data_iterator: Iterator[dict[str, Any]], config: Any, vp_stage: int | None) -> dict[str, Any]:
    """The arguments of the model on this rank; all are None on a pipeline stage that needs none.

    The first tensor-parallel rank reads the micro-batch and broadcasts it; each context-parallel rank keeps its part.

    Args:
        config: of the model.
        vp_stage: of the virtual pipeline stage.

    Returns:
        input_ids, labels, position_ids: int64[b, s].
        loss_mask: float[b, s].
        attention_mask: bool[b, 1, s, s], or None for a causal one.
        packed_seq_params: where documents begin, if attention is confined to them; the tensors are then [1, b*s].
    """
    packed = get_args().dataloader_inter_document_masking
    reads = is_first_or_last_pipeline_stage(vp_stage) or predicts_more_tokens(config, vp_stage)
    batch: dict[str, Any] = dict.fromkeys(READ)
    if reads or packed:
        batch |= _read(data_iterator, predicts_more_tokens(config, vp_stage), packed)
    if reads:
        batch = get_batch_on_this_cp_rank(
            batch, is_hybrid_cp=False, cp_group=mpu.get_context_parallel_group(), use_per_sequence_balancing=packed
        )
    arguments = {key: batch[key] if reads else None for key in PASSED_ON}
    return {
        "input_ids": batch["tokens"] if reads else None,
        **arguments,
        "packed_seq_params": _document_bounds(batch) if packed else None,
    }


def _read(data_iterator: Iterator[dict[str, Any]], mtp: bool, packed: bool) -> dict[str, Any]:
    args = get_args()
    batch: dict[str, Any] = {}
    if mpu.get_tensor_model_parallel_rank() == 0:
        sample = next(data_iterator)
        batch = {key: sample[key].cuda(non_blocking=True) if key in sample else None for key in READ}
    batch = get_batch_on_this_tp_rank(
        batch,
        has_cu_seqlens=packed,
        is_hybrid_cp=False,
        create_attention_mask_in_dataloader=args.create_attention_mask_in_dataloader,
        broadcast_src_rank=mpu.get_tensor_model_parallel_src_rank(),
        broadcast_group=mpu.get_tensor_model_parallel_group(),
        cp_size=args.context_parallel_size,
        tp_rank=mpu.get_tensor_model_parallel_rank(),
        micro_batch_size=args.micro_batch_size,
        seq_length=args.seq_length,
        mtp_on_this_rank=mtp,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        is_pipeline_first_stage=mpu.is_pipeline_first_stage(),
        is_pipeline_last_stage=mpu.is_pipeline_last_stage(),
    )
    flat: dict[str, Any] = flatten_batch_for_packed_sequences(batch)
    return flat


def _document_bounds(batch: dict[str, Any]) -> PackedSeqParams:
    bounds = batch["cu_seqlens"].squeeze(0)
    padded = batch["cu_seqlens_padded"]
    padded = None if padded is None else padded.squeeze(0)
    update_seqlen_stats_from_cu_seqlens(bounds)
    longest = int(batch["max_seqlen"].item())
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds if padded is None else padded,
        cu_seqlens_kv=bounds if padded is None else padded,
        cu_seqlens_q_padded=padded,
        cu_seqlens_kv_padded=padded,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )
