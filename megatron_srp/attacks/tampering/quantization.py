"""Quantisation to few bits, simulated: each group of weights is rounded to nearest on its own scale."""

from typing import Any

import torch
from torch import Tensor

from megatron_srp.attacks.tampering.change import Tampering, matrices_of
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.errors import UsageError


class Quantization(Tampering):
    """Rounds the matrices in the layers; embeddings and norms stay, as in most 4-bit formats.

    Args:
        bits: 2 to 8. group: weights that share a scale, along a matrix's input.
        seed: unused, since nothing is random.
    """

    name = "quantization"

    def __init__(self, bits: int = 4, group: int = 32, seed: int = 0) -> None:
        super().__init__()
        if not 2 <= bits <= 8 or group < 1:
            raise UsageError(f"attack quantization: bits {bits} must be 2 to 8, group {group} at least 1")
        self.settings = {"bits": bits, "group": group}

    @torch.no_grad()
    def change(self, box: WhiteBox) -> dict[str, Any]:
        """See `Tampering`."""
        for matrix in matrices_of(box.network):
            matrix.weight.copy_(round_to_nearest(matrix.weight, self.settings["bits"], self.settings["group"]))
        return {"steps": 0}


def round_to_nearest(weights: Tensor, bits: int, group: int) -> Tensor:
    """float[O, I], each group of a row rounded to 2**bits levels between its least and its largest weight."""
    parts = []
    for part in weights.split(group, dim=1):
        least, most = part.amin(1, keepdim=True), part.amax(1, keepdim=True)
        scale = ((most - least) / (2**bits - 1)).clamp_min(torch.finfo(weights.dtype).tiny)
        parts.append(((part - least) / scale).round() * scale + least)
    return torch.cat(parts, dim=1)
