"""The trainer on one rank, which also writes what it computed before it changed the model.

    python -m megatron_srp.benchmarks.real.record FILE FLAGS OF TRAINING...

FILE gets the first two batches with their losses; with a warmup from zero the first update changes nothing. Of the
first one's first sequence it gets the logits as well. (Megatron's log averages the losses of the first two steps.)
"""

import sys
from collections.abc import Iterator
from typing import Any

BATCHES = 2
_KEPT = ("tokens", "labels", "loss_mask")


def main(file: str, *flags: str) -> None:
    import torch

    from megatron_srp.training import pretrain
    from megatron_srp.training.trainer import run

    batches: list[dict[str, Any]] = []
    forward_step = run.forward_step

    def recording(data_iterator: Iterator[dict[str, Any]], model: Any) -> Any:
        if len(batches) == BATCHES:
            return forward_step(data_iterator, model)
        batch = next(data_iterator)
        kept = {name: batch[name] for name in _KEPT}
        if not batches:
            with torch.no_grad():
                kept["logits"] = model(batch["tokens"][:1], batch["position_ids"][:1], None).float()
        losses, loss_function = forward_step(iter([batch]), model)
        mask = batch["loss_mask"]
        batches.append(kept | {"loss": float((losses.detach() * mask).sum() / mask.sum())})
        if len(batches) == BATCHES:
            torch.save(batches, file)
        return losses, loss_function

    run.forward_step = recording
    pretrain.main(list(flags))


if __name__ == "__main__":
    main(*sys.argv[1:])
