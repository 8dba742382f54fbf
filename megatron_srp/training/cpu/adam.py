"""AdamW with the interface of Transformer Engine's FusedAdam, for runs without CUDA."""

from collections.abc import Iterable
from typing import Any

import torch


class FusedAdam(torch.optim.Optimizer):
    """Adam as Megatron's distributed optimizer expects it.

    `step` is counted once per parameter group, as FusedAdam does it and as Megatron's checkpoints
    store it; torch.optim.AdamW counts it per parameter.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        adam_w_mode: bool = True,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.adam_w_mode = adam_w_mode

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                group["step"] = group.get("step", 0) + 1
            for p in params:
                self._update(p, group)

    def _update(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state = self.state[p]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        mean, variance, grad = state["exp_avg"], state["exp_avg_sq"], p.grad
        assert grad is not None
        if self.adam_w_mode:
            p.mul_(1 - group["lr"] * group["weight_decay"])
        else:
            grad = grad.add(p, alpha=group["weight_decay"])
        mean.lerp_(grad, 1 - beta1)
        variance.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        unbiased_std = variance.sqrt().div_((1 - beta2 ** group["step"]) ** 0.5)
        step_size = group["lr"] / (1 - beta1 ** group["step"])
        p.addcdiv_(mean, unbiased_std.add_(group["eps"]), value=-step_size)
