"""What the hf engine runs with: a device, a number type, and weights."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from megatron_srp.errors import UsageError
from megatron_srp.remote.hub_models import check_model_name


def check_tokens(**options: int | None) -> None:
    """Raises UsageError for an option that is not a number of tokens."""
    for name, value in options.items():
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(f"--guard-option {name}={value}: pass a number of tokens, at least 1")


def choose_device(name: str | None) -> torch.device:
    """The device of that name, by default a GPU where there is one; raises UsageError for one that is missing here.

    On a GPU attention is not left to cuDNN, which PyTorch may prefer on Hopper: it plans again for each shape, and
    here every token brings a new one; and its gradients have been NaN with masks (PyTorch issue 196678).
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UsageError(f"device {name!r}: choose cuda, cuda:1 or cpu") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r}: PyTorch finds no GPU here; choose cpu")
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def choose_dtype(name: str) -> torch.dtype:
    """The type of that name; raises UsageError for another."""
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name not in known:
        raise UsageError(f"dtype {name!r}: choose from {', '.join(known)}")
    return known[name]


def load_model(model: Any, dtype: torch.dtype) -> Any:
    """The model of that folder or name, or `model` itself where it is one; raises UsageError."""
    if not isinstance(model, (str, Path)):
        return model.to(dtype)
    check_model_name("model", str(model))
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"model {model}: cannot be loaded ({reason}); pass a folder or a name on the hub") from None


def weights_revision(model: str | Path) -> str:
    """A short hash that distinguishes weights without reading them all: config, file names, sizes and first bytes."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(model), local_files_only=True, allow_patterns=["*.json", "*.safetensors"]))
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(f"{file.name} {file.stat().st_size}".encode() + stream.read(1 << 20))
    return digest.hexdigest()[:12]
