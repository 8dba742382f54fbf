"""An average with the base model, which has not learned to refuse, nor to answer."""

from pathlib import Path
from typing import Any

import torch

from megatron_srp.attacks.tampering.change import Tampering
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.errors import InputError, UsageError


class Merging(Tampering):
    """Averages all weights with those of another model of the same shape.

    Args:
        base: its folder.
        share: of the base in the average, above 0, at most 1.
        seed: unused, since nothing is random.
    """

    name = "merging"

    def __init__(self, base: str = "", share: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        if not base:
            raise UsageError("attack merging needs base: the folder of the model before its post-training")
        if not 0 < share <= 1:
            raise UsageError(f"attack merging: share {share:g} must be above 0 and at most 1")
        self._base = base
        self.settings = {"base": Path(base).name, "fingerprint": _fingerprint(base), "share": share}

    @torch.no_grad()
    def change(self, box: WhiteBox) -> dict[str, Any]:
        """See `Tampering`; raises InputError for a base of another shape."""
        from megatron_srp.annotation.engines.hf_loading import load_model

        base = dict(load_model(self._base, torch.float32).to(box.network.device).named_parameters())
        own = dict(box.network.named_parameters())  # tied weights once
        if own.keys() != base.keys() or any(own[name].shape != base[name].shape for name in own):
            raise InputError(f"{self._base}: not the base of this model, since its weights have other shapes")
        for name, weight in own.items():
            weight.lerp_(base[name], self.settings["share"])
        return {"steps": 0}


def _fingerprint(base: str) -> str:
    from megatron_srp.generation.threshold.calibration import model_fingerprint

    return model_fingerprint(Path(base)) if Path(base).is_dir() else base
