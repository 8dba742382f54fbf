"""A Llama in a GGUF file, as transformers' own loader reads it, and its tokenizer.

That loader leaves out two things, which are completed or refused here: how the tokenizer splits a text into words
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, `tokenizer.ggml.pre`), and the scaled rotary positions of
Llama 3.1, which such files hold as a tensor.
"""

import json
from pathlib import Path
from typing import Any

import torch

from megatron_srp.checkpoints.hf_weights import HFWeights
from megatron_srp.checkpoints.llama import shape_of_hf
from megatron_srp.errors import InputError
from megatron_srp.files import write_json
from megatron_srp.missing_packages import missing_packages_explained

_MAGIC = b"GGUF"
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = [{**_BYTES, "use_regex": True}]
_LLAMA3 = [
    {"type": "Split", "pattern": {"Regex": _LLAMA3_SPLIT}, "behavior": "Isolated", "invert": False},
    {**_BYTES, "use_regex": False},
]
# How the byte-level vocabularies that plain Llamas come with split a text, by the name in the file.
_SPLITS = {
    "smollm": [{"type": "Digits", "individual_digits": True}, *_GPT2],
    "gpt-2": _GPT2,
    **dict.fromkeys(["llama-bpe", "llama3", "llama-v3"], _LLAMA3),
}


def is_gguf(path: Path) -> bool:
    """Whether `path` is a GGUF file, whatever its name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


class GGUFWeights(HFWeights):
    """The dequantized weights of a GGUF file, in float32.

    Raises:
        InputError: when it is not a plain Llama that transformers reads whole.
        UsageError: when the package `gguf` is not installed.
    """

    def __init__(self, file: Path) -> None:
        self._folder, self.notes = file, []
        kinds = _check_file(file)
        model = _loaded(file, "AutoModelForCausalLM", dtype=torch.float32)
        self.shape = shape_of_hf(model.config, str(file))
        self.dtype = torch.float32
        self._files = {name: _Tensors(model.state_dict()) for name in model.state_dict()}
        if quantized := sorted(kinds - {"F32", "F16", "BF16"}):
            self.notes.append(f"{file.name} is quantized ({', '.join(quantized)}): imported as what it decodes to")


class _Tensors:
    """Tensors in memory with the interface of an open file of safetensors."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def _check_file(file: Path) -> set[str]:
    """The number formats of its tensors; raises InputError for what transformers would read only in part."""
    reader = _reader(file)
    if (count := _field(reader, "split.count") or 1) > 1:
        raise InputError(f"{file}: is one of {count} parts; join them with llama-gguf-split --merge")
    scaled = (_field(reader, "llama.rope.scaling.type") or "none") != "none"
    if scaled or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise InputError(
            f"{file}: has scaled rotary positions, which transformers does not read from GGUF; import the model's "
            "folder of safetensors"
        )
    return {tensor.tensor_type.name for tensor in reader.tensors}


def _reader(file: Path) -> Any:
    with missing_packages_explained("a GGUF file"):
        from gguf import GGUFReader
    try:
        return GGUFReader(file)
    except Exception as error:  # of a damaged file anything, from numpy's to Unicode's
        raise InputError(f"{file}: cannot be read as GGUF ({error or type(error).__name__}); fetch it again") from None


def _field(reader: Any, name: str) -> Any:
    field = reader.fields.get(name)
    return None if field is None else field.contents()


def _loaded(file: Path, kind: str, **options: Any) -> Any:
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(file.parent, gguf_file=file.name, **options)
    except Exception as error:  # its loader raises whatever it stumbles over
        raise InputError(f"{file}: transformers cannot load it ({error})") from None


def write_tokenizer(file: Path, folder: Path) -> Path:
    """Write the tokenizer of a GGUF file into `folder`, as tokenizer.json and its configuration. Returns `folder`.

    Raises:
        InputError: for one that splits texts in a way not known here.
    """
    reader = _reader(file)
    byte_level = _field(reader, "tokenizer.ggml.model") == "gpt2"
    name = _field(reader, "tokenizer.ggml.pre") or "default"
    if byte_level and name not in _SPLITS:
        raise InputError(
            f"{file}: its tokenizer splits words as {name!r}, which is not one of {', '.join(sorted(_SPLITS))}; pass "
            "the model's own tokenizer with --tokenizer-model"
        )
    tokenizer = _loaded(file, "AutoTokenizer")
    tokenizer.save_pretrained(folder)
    if byte_level:
        spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": _SPLITS[name]}
        spec["model"]["ignore_merges"] = _SPLITS[name] is _LLAMA3
        write_json(folder / "tokenizer.json", spec)
    return folder
