"""Read a Hugging Face Llama from its safetensors, one weight of Megatron's at a time."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from megatron_srp.checkpoints.llama import Weight, shape_of_hf
from megatron_srp.errors import InputError

# Old files hold what follows from the configuration, and a tied output layer beside the embedding.
_IGNORED = ("rotary_emb.inv_freq",)


class HFWeights:
    """The weights of the model in `folder`, open for reading.

    Attributes:
        shape: what its config.json says.
        dtype: of its weights.

    Raises:
        InputError: when it is no folder of a plain Llama with safetensors.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.shape = shape_of_hf(self._read_config(), str(folder / "config.json"))
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        try:
            for path in sorted(folder.glob("*.safetensors")):
                file = self._open.enter_context(safe_open(path, framework="pt"))
                self._files |= dict.fromkeys(file.keys(), file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read as safetensors ({error})") from None
        if not self._files:
            raise InputError(f"{folder}: no .safetensors there; save the model with save_pretrained first")
        self.dtype = self._tensor("model.norm.weight").dtype

    def _read_config(self) -> Any:
        path = self._folder / "config.json"
        if not path.is_file():
            raise InputError(f"{self._folder}: no config.json there; give the folder of a Hugging Face model")
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
        left = sorted(
            name for name in self._files.keys() - wanted if not name.endswith(_IGNORED) and name != "lm_head.weight"
        )
        if left:
            raise InputError(f"{self._folder}: cannot be imported, a plain Llama has no {', '.join(left[:3])}")

    def _tensor(self, name: str) -> torch.Tensor:
        if name not in self._files:
            raise InputError(f"{self._folder}: its files lack {name}; is a file missing?")
        tensor = self._files[name].get_tensor(name)
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def megatron(self, weight: Weight) -> torch.Tensor:
        """A weight as Megatron has it. Rows of tokens that the model does not know are the mean of all."""
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
