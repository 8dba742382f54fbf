"""Removal of a direction from the weights, without training (Arditi et al., arXiv 2406.11717).

The direction is a difference of means: of the residual stream after harmful and after ordinary requests, at the end of
the prompt (`refusal`), or where a forced reflection reads the verdict (`unsafe`). Every matrix that writes to the
residual stream loses its part along it.
"""

from typing import Any

import torch
from torch import Tensor

from megatron_srp.attacks.tampering.change import Tampering, content_of, layers_of, read_pairs
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.errors import InputError, UsageError, did_you_mean

OF = ("refusal", "unsafe")
DEPTH = 0.6  # of the layers, where the direction is read: refusal is found in the middle ones


class DirectionRemoval(Tampering):
    """Projects a direction out of the embeddings, and of what attention and MLPs write.

    Args:
        of: refusal or unsafe.
        data: file of harmful requests; data_format: its name, as the evaluation knows it.
        ordinary, ordinary_format: the same of ordinary requests.
        rows: maximum requests of each kind that the means are over.
        depth: the share of the layers after which the direction is read.
        leave_out: requests that the means leave out, since they are asked later.
        seed: unused, since nothing is random.
    """

    name = "direction"

    def __init__(
        self,
        of: str = "refusal",
        data: str = "",
        data_format: str = "advbench",
        ordinary: str = "",
        ordinary_format: str = "alpaca",
        rows: int = 64,
        depth: float = DEPTH,
        leave_out: tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if of not in OF:
            raise UsageError(f"direction of {of!r}; {did_you_mean(of, list(OF))}")
        if not data or not ordinary:
            raise UsageError("attack direction needs data and ordinary: files of harmful and of ordinary requests")
        if rows < 1 or not 0 < depth <= 1:
            raise UsageError(f"attack direction: rows {rows} must be at least 1, depth {depth:g} above 0 and at most 1")
        self._sources = {"harmful": (data_format, data), "ordinary": (ordinary_format, ordinary)}
        self._leave_out = frozenset(leave_out)
        self.settings = {
            **{"of": of, "data": content_of(data), "data_format": data_format, "ordinary": content_of(ordinary)},
            **{"ordinary_format": ordinary_format, "rows": rows, "depth": depth, "leave_out": sorted(leave_out)},
        }

    @torch.no_grad()
    def change(self, box: WhiteBox) -> dict[str, Any]:
        """See `Tampering`."""
        layers = layers_of(box.network)
        layer = max(1, round(self.settings["depth"] * len(layers)))
        prompts = {kind: self._prompts(kind) for kind in self._sources}
        harmful, ordinary = (self._mean(box, prompts[kind], layer) for kind in ("harmful", "ordinary"))
        direction = harmful - ordinary
        if not direction.norm() > 0:
            raise InputError("harmful and ordinary requests have the same states, so that there is no direction")
        remove_direction(box.network, direction / direction.norm())
        return {"steps": 0, "forward_passes": sum(map(len, prompts.values()))}

    def _prompts(self, kind: str) -> list[str]:
        behaviors = read_pairs(*self._sources[kind])
        wanted = [b.prompt for b in behaviors if b.harmful is (kind == "harmful") and b.prompt not in self._leave_out]
        if not wanted:
            raise InputError(f"{self._sources[kind][1]}: no {kind} requests that are not asked later; pass more")
        return wanted[: self.settings["rows"]]

    def _mean(self, box: WhiteBox, prompts: list[str], layer: int) -> Tensor:
        """float32[D], over the states of the last token after that layer."""
        read = box.verdict_tree.path_to(box.verdict_tree.reads[0][0][0]) if self.settings["of"] == "unsafe" else []
        states = [last_state(box.network, [*ids, *read], layer) for ids in box.encode_prompts(prompts)]
        return torch.stack(states).mean(0)


@torch.no_grad()
def last_state(network: Any, ids: list[int], layer: int = -1) -> Tensor:
    """float32[D]: the residual stream of the last token, after that layer (0: the embeddings)."""
    row = torch.tensor([ids], device=network.device)
    found = network(input_ids=row, output_hidden_states=True, use_cache=False, logits_to_keep=1)
    state: Tensor = found.hidden_states[layer][0, -1].float()
    return state


def remove_direction(network: Any, direction: Tensor) -> None:
    """Project the unit vector float32[D] out of all that writes to the residual stream."""
    embeddings = network.get_input_embeddings().weight
    embeddings -= torch.outer(embeddings @ direction, direction)
    for layer in layers_of(network):
        for matrix in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            matrix -= torch.outer(direction, direction @ matrix)
