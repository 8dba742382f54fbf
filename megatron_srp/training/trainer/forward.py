"""Megatron's forward step: the model's output for a micro-batch, and the loss.

Shapes: b micro-batch size in sequences, s sequence length in tokens.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from megatron.core import mpu
from megatron.core.num_microbatches_calculator import get_num_microbatches
from megatron.core.rerun_state_machine import get_rerun_state_machine
from megatron.core.utils import get_attr_wrapped_model
from megatron.training import get_args, get_timers
from megatron.training.training import update_seqlen_stats_from_cu_seqlens

from megatron_srp.training.datasets.sft_batch import conversation_bounds, get_packed_batch, is_flat
from megatron_srp.training.trainer.batch import get_batch


def loss_function(
    loss_mask: torch.Tensor, losses: torch.Tensor, count: bool = False
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Summed cross-entropy in nats and the number of tokens it is summed over.

    Args:
        loss_mask: [b, s], 0 where a token is not learned.
        losses: [b, s], per token.
        count: also log the number of learned tokens per step.
    """
    mask = loss_mask.view(-1).float()
    loss = torch.sum(losses.view(-1).float() * mask)
    num_tokens = mask.sum().detach().to(torch.int)
    if get_args().check_for_nan_in_loss_and_grad:
        for wrong in (torch.isnan, torch.isinf):
            get_rerun_state_machine().validate_result(
                result=loss,
                rejection_func=wrong,
                message=f"loss: {wrong.__name__}",
                tolerance=0.0,
                fatal=True,
            )
    report = torch.stack([loss.detach(), num_tokens.to(loss.dtype)])
    reports = {"lm loss": report}
    if count:  # Megatron sums numerators and denominators over all micro-batches of a step
        share = 1 / (get_num_microbatches() * mpu.get_data_parallel_world_size())
        reports["learned tokens"] = torch.stack([report[1], torch.full_like(report[1], share)])
    return loss, num_tokens, reports


def forward_step(data_iterator: Iterator[dict[str, torch.Tensor]], model: Any) -> tuple[torch.Tensor, Any]:
    """Megatron's forward step: the model's output and the function that computes the loss from it."""
    timers = get_timers()
    timers("batch-generator", log_level=2).start()
    vp_stage = get_attr_wrapped_model(model, "vp_stage")
    if get_args().srp_sft:
        batch = get_packed_batch(data_iterator, is_flat(get_args()))
        timers("batch-generator").stop()
        if model.training and not vp_stage:  # what attention actually computes, for the throughput
            update_seqlen_stats_from_cu_seqlens(conversation_bounds(batch["position_ids"]))
        return model(**batch), partial(loss_function, batch["loss_mask"], count=model.training)
    batch = get_batch(data_iterator, get_attr_wrapped_model(model, "config"), vp_stage)
    timers("batch-generator").stop()
    return model(**batch), partial(loss_function, batch["loss_mask"])
