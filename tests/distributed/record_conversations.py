"""Entry point for the fork server: what one packed micro-batch gives, and what it gives after changes to it."""

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import torch


def main() -> None:
    """`record_conversations FILE [flags of a run]`, for a single rank; writes a dictionary of `experiments`."""
    from megatron_srp.training import pretrain
    from megatron_srp.training.trainer import run as trainer

    file = sys.argv.pop(1)
    recorded: list[str] = []
    forward_step = trainer.forward_step

    def recording(data_iterator: Iterator[dict[str, torch.Tensor]], model: Any) -> Any:
        sample = next(data_iterator)
        if not recorded:
            torch.save(experiments(sample, model), file)
            recorded.append(file)
        return forward_step(iter([sample]), model)

    trainer.forward_step = recording
    pretrain.main()


def experiments(sample: dict[str, torch.Tensor], model: Any) -> dict[str, Any]:
    """Logits of the batch and of each conversation alone, and losses with gradients, before and after changes."""
    from megatron_srp.training.datasets.sft_batch import conversation_bounds

    fullest = int((sample["position_ids"] == 0).sum(dim=1).argmax())  # of the sequences, in conversations
    first = {key: tensor[fullest : fullest + 1] for key, tensor in sample.items()}
    bounds = conversation_bounds(first["position_ids"]).tolist()
    spans = list(itertools.pairwise(bounds))
    conversations = [span for span in spans if first["loss_mask"][0, slice(*span)].any()]
    begin, end = conversations[1]
    changed = dict(first, tokens=first["tokens"].clone())
    changed["tokens"][0, begin:end] = (changed["tokens"][0, begin:end] + 17) % 500
    alone = [{key: tensor[:, slice(*span)] for key, tensor in first.items()} for span in conversations]
    (prompt,) = torch.where(first["loss_mask"][0, begin:end] == 0)
    (learned,) = torch.where(first["loss_mask"][0, begin:end] == 1)
    return {
        "spans": conversations,
        "changed": 1,
        "logits": logits(first, model),
        "logits without a mask": logits(first, model, mask=False),
        "logits of the changed": logits(changed, model),
        "logits alone": [logits(own, model) for own in alone],
        "loss": loss_and_gradients(first, model),
        "loss, prompt's labels changed": loss_and_gradients(with_other_labels(first, prompt + begin), model),
        "loss, a learned label changed": loss_and_gradients(with_other_labels(first, learned[:1] + begin), model),
    }


def logits(sample: dict[str, torch.Tensor], model: Any, mask: bool = True) -> torch.Tensor:
    from megatron_srp.training.datasets.sft_batch import block_causal_mask

    position_ids = sample["position_ids"]
    with torch.no_grad():
        attention = block_causal_mask(position_ids) if mask else None
        return torch.as_tensor(model(sample["tokens"], position_ids, attention))


def with_other_labels(sample: dict[str, torch.Tensor], where: torch.Tensor) -> dict[str, torch.Tensor]:
    labels = sample["labels"].clone()
    labels[0, where] = (labels[0, where] + 1) % 500
    return dict(sample, labels=labels)


def loss_and_gradients(sample: dict[str, torch.Tensor], model: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of the trainer's own forward step, and its gradients by all weights."""
    from megatron_srp.training.datasets.sft_batch import get_packed_batch
    from megatron_srp.training.trainer.forward import loss_function

    batch = get_packed_batch(iter([sample]), flat=False)
    loss, _, _ = loss_function(batch["loss_mask"], model(**batch))
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))
