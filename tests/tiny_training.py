"""The training of the tiny models that tests make."""

from collections.abc import Callable
from typing import Any


def train_tiny(model: Any, loss: Callable[[], Any], steps: int, lr: float, show: bool = False) -> None:
    """Minimise `loss()` with AdamW: 20 steps of warm-up, and a linear decay over the second half.

    Args:
        show: print the loss now and then.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20, 2 * (1 - step / steps))
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if show and not step % 25:
            print(step, round(value.item(), 4), flush=True)
