"""`--srp-log-reflections`: the loss on text, the loss on reflections, and the share of verdicts that are right.

A verdict is right where the model, given the text before it, would have written it: each of its tokens is the most
probable one. Everything is computed from what the loss has at hand, without waiting for the GPU, and on the steps only
that are written to TensorBoard (--tensorboard-log-interval) or W&B. What this relies on:

    LanguageModule.compute_language_model_loss(labels, logits)      the loss of GPTModel and HybridModel
    training.training_log(..., iteration, ...)                      is called on every rank after each step

Shapes: b sequences, s tokens, v rows of the vocabulary on this tensor-parallel rank.
"""

import functools
import inspect
import sys
from typing import Any

import torch
from megatron.core import mpu
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.training import get_args, training
from megatron.training.global_vars import get_tensorboard_writer, get_wandb_writer

from megatron_srp.training.host.reflection_patterns import Patterns

_MTP = "megatron.core.transformer.multi_token_prediction"  # calls the same loss for tokens further ahead
_MOST = 16  # at most one in this many tokens is a verdict's; more are not counted


def log_reflections(patterns: Patterns) -> None:
    """From now on log them in every training step that Megatron writes scalars for."""
    log = ReflectionLog(patterns)
    plain_loss: Any = LanguageModule.compute_language_model_loss
    plain_log: Any = training.training_log
    parameters = inspect.signature(plain_log)

    @functools.wraps(plain_loss)
    def loss(model: Any, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        ahead = sys._getframe(1).f_globals.get("__name__") == _MTP
        if ahead or not model.training or not _is_logged(get_args().curr_iteration + 1):
            return plain_loss(model, labels, logits)
        right = log.count_verdicts(labels, logits.detach())  # the loss overwrites the logits
        losses: torch.Tensor = plain_loss(model, labels, logits)
        log.add(labels, losses.detach(), right)
        return losses

    @functools.wraps(plain_log)
    def log_step(*args: Any, **kwargs: Any) -> Any:
        iteration = parameters.bind(*args, **kwargs).arguments["iteration"]
        if _is_logged(iteration):
            _write(log.take(), iteration)
        return plain_log(*args, **kwargs)

    LanguageModule.compute_language_model_loss = loss
    training.training_log = log_step


def _is_logged(iteration: int) -> bool:
    return bool(iteration % get_args().tensorboard_log_interval == 0)


def _write(values: dict[str, float], iteration: int) -> None:
    writer, wandb = get_tensorboard_writer(), get_wandb_writer()
    for name, value in values.items():
        if writer:
            writer.add_scalar(name, value, iteration)
        if wandb:
            wandb.log({name: value}, iteration)


class ReflectionLog:
    """Sums over the micro-batches of a step.

    Args:
        patterns: how reflections look in tokens.
    """

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self._names = ["loss on text", "loss on reflections", *(f"right verdicts: {name}" for name in patterns.heads)]
        self._sums: torch.Tensor | None = None  # [2, n]: numerators and denominators

    def count_verdicts(self, labels: torch.Tensor, logits: torch.Tensor) -> list[torch.Tensor]:
        """For each verdict, how many are right and how many there are: [2].

        Args:
            labels: int64[b, s].
            logits: [s, b, v].
        """
        starts = [find(labels, head) for head in self.patterns.heads.values()]
        root, heads = self.patterns.root, self.patterns.heads.values()
        asked = torch.zeros_like(labels, dtype=torch.bool)
        for start, head in zip(starts, heads, strict=True):
            for place in range(root, len(head)):
                asked |= shift(start, place)
        written = self._written(asked, labels, logits)
        counts = []
        for start, head in zip(starts, heads, strict=True):
            right = start.clone()
            for place in range(root, len(head)):
                right &= shift(written, -place)
            counts.append(torch.stack([right.sum(), start.sum()]).float() * (len(head) > root))
        return counts

    def _written(self, asked: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """bool[b, s]: where, of the places `asked`, the most probable token is the label."""
        batch, length = labels.shape
        # A fixed number of places: to ask how many there are would wait for the GPU.
        places = asked.flatten().float().topk(max(length * batch // _MOST, 1)).indices
        rows = logits.reshape(length * batch, -1)[(places % length) * batch + places // length]
        highest, token = rows.max(dim=-1)
        token = token + mpu.get_tensor_model_parallel_rank() * logits.size(-1)
        group, everywhere = mpu.get_tensor_model_parallel_group(), highest.clone()
        torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MAX, group=group)
        right = ((highest == everywhere) & (token == labels.flatten()[places])).float()
        torch.distributed.all_reduce(right, torch.distributed.ReduceOp.MAX, group=group)
        written = torch.zeros(batch * length, dtype=torch.bool, device=labels.device)
        written[places] = right.bool()
        return written.view(batch, length) & asked

    def add(self, labels: torch.Tensor, losses: torch.Tensor, verdicts: list[torch.Tensor]) -> None:
        """Add a micro-batch: int64[b, s] labels, and their losses [b, s]."""
        inside = self.inside(labels)
        text = torch.stack([(losses * ~inside).sum(), (~inside).sum()])
        reflections = torch.stack([(losses * inside).sum(), inside.sum()])
        sums = torch.stack([text.float(), reflections.float(), *verdicts], dim=1)
        self._sums = sums if self._sums is None else self._sums + sums

    def inside(self, labels: torch.Tensor) -> torch.Tensor:
        """bool[b, s]: which labels are a reflection's; an end of text after it is not."""
        places = torch.arange(labels.size(1), device=labels.device).expand_as(labels)
        begins = torch.stack([find(labels, head) for head in self.patterns.heads.values()]).any(dim=0)
        ends = shift(find(labels, self.patterns.close), len(self.patterns.close))  # the first token after each
        begun, ended = (torch.where(marks, places, -1).cummax(dim=1).values for marks in (begins, ends))
        return begun > ended

    def take(self) -> dict[str, float]:
        """The step's values over all ranks with a part of its loss, by name; the sums begin again."""
        sums, self._sums = self._sums, None
        if sums is None:  # not the last pipeline stage
            return {}
        torch.distributed.all_reduce(sums, group=mpu.get_data_parallel_group(with_context_parallel=True))
        values = sums.tolist()
        return {name: total / count for name, total, count in zip(self._names, *values, strict=True) if count}


def find(labels: torch.Tensor, pattern: tuple[int, ...]) -> torch.Tensor:
    """bool[b, s]: where the pattern begins in each row."""
    found = torch.ones_like(labels, dtype=torch.bool)
    for place, token in enumerate(pattern):
        found &= shift(labels == token, -place)
    return found


def shift(marks: torch.Tensor, places: int) -> torch.Tensor:
    """bool[b, s], moved this many places to the right (to the left if negative); False moves in."""
    moved = torch.zeros_like(marks)
    length = marks.size(1)
    if places >= 0:
        moved[:, places:] = marks[:, : length - places]
    else:
        moved[:, :places] = marks[:, -places:]
    return moved
