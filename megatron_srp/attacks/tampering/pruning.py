"""Magnitude pruning: the smallest weights of each matrix become zero."""

from typing import Any

from torch.nn.utils import prune

from megatron_srp.attacks.tampering.change import Tampering, matrices_of
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.errors import UsageError


class Pruning(Tampering):
    """Zeroes a share of the weights of every matrix in the layers, the smallest ones.

    Args:
        share: above 0, below 1.
        seed: unused, since nothing is random.
    """

    name = "pruning"

    def __init__(self, share: float = 0.3, seed: int = 0) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise UsageError(f"attack pruning: share {share:g} must be above 0 and below 1")
        self.settings = {"share": share}

    def change(self, box: WhiteBox) -> dict[str, Any]:
        """See `Tampering`."""
        for matrix in matrices_of(box.network):
            prune.l1_unstructured(matrix, "weight", amount=self.settings["share"])
            prune.remove(matrix, "weight")
        return {"steps": 0}
