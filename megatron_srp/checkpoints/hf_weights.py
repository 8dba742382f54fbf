"""Read a Hugging Face Llama from its safetensors, one weight of Megatron's at a time."""

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from megatron_srp.checkpoints.llama import Weight, shape_of_hf
from megatron_srp.errors import InputError

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Old files also hold tensors that follow from the configuration, and a tied output layer next to the embedding.
_IGNORED = ("rotary_emb.inv_freq",)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the model in `folder`: those that transformers reads, and no others in it.

    Repositories also hold adapters, the original authors' consolidated files and remains of earlier uploads.

    Raises:
        InputError: when there are none, or the index cannot be read.
    """
    whole, index = folder / _WHOLE, folder / _INDEX
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise InputError(f"{folder}: has no {_WHOLE} or {_INDEX}; save the model with save_pretrained first")
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in files if not (folder / name).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{index}: not an index of weights ({error!r}); fetch it again") from None
    if missing or not files:
        raise InputError(
            f"{folder}: {_INDEX} names {', '.join(missing[:3]) or 'no file'}, which is missing; fetch it again"
        )
    return [folder / name for name in files]


class HFWeights:
    """The weights of the model in `folder`, open for reading.

    Attributes:
        shape: from its config.json; untied if the output layer differs from the embedding after all.
        dtype: of its weights.
        notes: what a user may not expect, one line each.

    Raises:
        InputError: when it is not a folder of a plain Llama with safetensors.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.shape = shape_of_hf(self._read_config(), str(folder / "config.json"))
        self.notes: list[str] = []
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        files = weight_files(folder)
        try:
            for path in files:
                file = self._open.enter_context(safe_open(path, framework="pt"))
                self._files |= dict.fromkeys(file.keys(), file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read as safetensors ({error})") from None
        self._note_other_files(files)
        self._untie_another_head()
        self.dtype = self._tensor("model.norm.weight").dtype

    def _note_other_files(self, files: list[Path]) -> None:
        others = sorted(path.name for path in {*self._folder.glob("*.safetensors")} - {*files})
        if others:
            named_by = _WHOLE if files[0].name == _WHOLE else _INDEX
            adapter = "; merge an adapter first (merge_and_unload)" if any("adapter" in name for name in others) else ""
            self.notes.append(f"not read, since {named_by} defines the model: {', '.join(others)}{adapter}")

    def _untie_another_head(self) -> None:
        """Keep an output layer that differs from the embedding, whatever config.json says, as transformers does."""
        if not self.shape.tied or not {_EMBEDDING, _HEAD} <= self._files.keys():
            return
        if not torch.equal(self._tensor(_EMBEDDING), self._tensor(_HEAD)):
            self.shape = dataclasses.replace(self.shape, tied=False)
            self.notes.append(
                f"config.json says that {_HEAD} is tied, but it differs from the embedding: imported untied"
            )

    def _read_config(self) -> Any:
        path = self._folder / "config.json"
        if not path.is_file():
            raise InputError(f"{self._folder}: has no config.json; pass the folder of a Hugging Face model")
        from transformers import LlamaConfig

        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON ({error})") from None
        config = LlamaConfig.from_dict(content)
        config.model_type = content.get("model_type", "none")
        return config

    def check(self, table: list[Weight]) -> None:
        """Refuse a model that lacks weights of the table or has others; raises InputError."""
        wanted = {name for weight in table for name in weight.llama}
        missing = sorted(wanted - self._files.keys())
        if missing:
            raise InputError(f"{self._folder}: its files lack {', '.join(missing[:3])}; is a file missing?")
        left = sorted(name for name in self._files.keys() - wanted if not name.endswith(_IGNORED) and name != _HEAD)
        if left:
            raise InputError(f"{self._folder}: cannot be imported, a plain Llama has no {', '.join(left[:3])}")

    def _tensor(self, name: str) -> torch.Tensor:
        if name not in self._files:
            raise InputError(f"{self._folder}: its files lack {name}; is a file missing?")
        tensor = self._files[name].get_tensor(name)
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def megatron(self, weight: Weight) -> torch.Tensor:
        """A weight in Megatron's form. Rows for tokens that are new to the model are the mean of all rows."""
        tensor = weight.join([self._tensor(name) for name in weight.llama])
        new = weight.shape[0] - tensor.shape[0]
        if weight.layer is None and tensor.ndim == 2 and new > 0:
            mean = tensor.float().mean(dim=0, keepdim=True).to(tensor.dtype)
            tensor = torch.cat([tensor, mean.expand(new, -1)])
        if tuple(tensor.shape) != weight.shape:
            raise InputError(
                f"{self._folder}: {', '.join(weight.llama)} make {tuple(tensor.shape)}, config.json says {weight.shape}"
            )
        return tensor
