"""A change of a model's weights: loads the folder, changes it, writes it elsewhere with what the attacker paid."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Linear

from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.errors import UsageError
from megatron_srp.evaluation.types import Defence
from megatron_srp.files import checksum, write_json
from megatron_srp.model_description import describe_model
from megatron_srp.schema import SAFE
from megatron_srp.whole_folder import whole_folder

if TYPE_CHECKING:
    from megatron_srp.evaluation.hf_target import HFTarget
    from megatron_srp.evaluation.types import Behavior

COST = "tampering.json"  # in the folder of a changed model


class Tampering(ABC):
    """A `ModelAttack` on any Llama of transformers, in float32.

    Attributes:
        on_step: called with the optimizer's steps made, and their number.
    """

    name: str
    settings: Mapping[str, Any]

    def __init__(self) -> None:
        self.on_step: Callable[[int, int], None] = lambda step, steps: None

    @abstractmethod
    def change(self, box: WhiteBox) -> dict[str, Any]:
        """Change `box.network` in place; returns what it cost, with the optimizer's `steps`."""

    def attack(self, model: Path, folder: Path) -> Path:
        """Write the changed model to `folder` and return it, with its cost in `tampering.json`.

        Raises:
            UsageError: when the model is not built as a Llama is.
            InputError: for data that the attack cannot use.
        """
        from megatron_srp.evaluation.hf_target import HFTarget, TargetOptions

        if folder.is_dir():
            return folder
        target = HFTarget(str(model), TargetOptions(dtype="float32"))
        cost = self.change(WhiteBox(target, Defence.UNGUARDED))
        with whole_folder(folder, overwrite=False, marker=COST) as partial:
            target.network.save_pretrained(partial)
            target.tokenizer.save_pretrained(partial)
            if description := describe_model(str(model)):
                description.write(partial)
            write_json(partial / COST, {"attack": self.name, "settings": dict(self.settings), "cost": cost})
        return folder


def read_cost(folder: Path) -> dict[str, Any]:
    """What a changed model cost the attacker."""
    found: dict[str, Any] = json.loads((folder / COST).read_text(encoding="utf-8"))["cost"]
    return found


def layers_of(network: Any) -> Any:
    """The model's layers; raises UsageError where it is not built as a Llama is."""
    try:
        layers = network.model.layers
        assert layers[0].self_attn.o_proj.weight.dim() == layers[0].mlp.down_proj.weight.dim() == 2
    except (AttributeError, AssertionError):
        raise UsageError(
            f"{type(network).__name__}: this attack changes models built as a Llama is "
            "(model.layers with self_attn.o_proj and mlp.down_proj); leave the column out"
        ) from None
    return layers


def matrices_of(network: Any) -> Iterator[Linear]:
    """The linear maps within the layers."""
    return (module for module in layers_of(network).modules() if isinstance(module, Linear))


def read_pairs(name: str, source: str) -> "list[Behavior]":
    """Requests with an answer or its beginning, which is made from the request where the data has none."""
    from megatron_srp.evaluation.behaviors import load_behaviors, with_target

    return [with_target(behavior) for behavior in load_behaviors(name, source)]


@torch.inference_mode()
def answer_loss(target: "HFTarget", prompt: str, answer: str) -> float:
    """Nats for a token of an answer to a prompt, after a Safe reflection or without one: whichever suits it better.

    A model that reflects begins no answer without a reflection, and another has seen none: read in one way only, a loss
    says which of the two a model is, rather than what it can do.
    """
    box = WhiteBox(target, Defence.UNGUARDED)
    (ids,), written = box.encode_prompts([prompt]), box.encode_answer(answer)
    reflection = box.encode_answer(box.form.render(SAFE))
    return round(min(_loss(box.network, [*ids, *before], written) for before in ([], reflection)), 5)


def _loss(network: Any, before: Sequence[int], written: Sequence[int]) -> float:
    row = torch.tensor([[*before, *written]], device=network.device)
    labels = row.clone()
    labels[0, : len(before)] = -100
    return float(network(input_ids=row, labels=labels, use_cache=False).loss)


def content_of(source: str) -> dict[str, Any] | str:
    """A file's content digest, or the name of what is not a file."""
    path = Path(source)
    return {"file": path.name, **checksum(path)} if source and path.is_file() else source
