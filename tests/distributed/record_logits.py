"""Entry point for the fork server: train, and write the first micro-batch and its logits to a file."""

import sys
from collections.abc import Iterator
from typing import Any

import torch


def main() -> None:
    """`record_logits FILE [flags of a run]`, for a single rank."""
    from megatron_srp.training import pretrain
    from megatron_srp.training.trainer import run as trainer

    file = sys.argv.pop(1)
    recorded: list[str] = []
    forward_step = trainer.forward_step

    def recording(data_iterator: Iterator[dict[str, torch.Tensor]], model: Any) -> Any:
        if recorded:
            return forward_step(data_iterator, model)
        sample = next(data_iterator)
        with torch.no_grad():
            logits = model(sample["tokens"], sample["position_ids"], None)
        torch.save({"tokens": sample["tokens"], "logits": logits}, file)
        recorded.append(file)
        return forward_step(iter([sample]), model)

    trainer.forward_step = recording
    pretrain.main()
