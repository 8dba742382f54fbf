"""A checkpoint of Megatron as a Hugging Face folder, whatever the parallel layout that wrote it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.checkpoints.description import describe_trained
from megatron_srp.checkpoints.llama import (
    LlamaShape,
    Weight,
    rope_of_old,
    shape_of_megatron,
    to_hf_config,
    weights,
)
from megatron_srp.errors import InputError, OutputError, UsageError
from megatron_srp.model_description import ModelDescription
from megatron_srp.tokenization import TextTokenizer, load_tokenizer
from megatron_srp.training.checks.end_of_document import recorded_in
from megatron_srp.whole_folder import whole_folder

if TYPE_CHECKING:
    import torch

    from megatron_srp.checkpoints.hf_tokenizer import TokenIds
    from megatron_srp.checkpoints.megatron_checkpoint import MegatronCheckpoint

DTYPES = ("as-saved", "bfloat16", "float16", "float32")
MAX_SHARD_BYTES = 2 * 10**9  # also the most that is held in memory


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    source: Path
    folder: Path
    num_params: int
    num_bytes: int
    dtype: str
    shape: LlamaShape
    tokenizer: str | Path
    padding_rows: int
    description: ModelDescription | None


def export_hf(
    checkpoint: Path,
    out: Path,
    *,
    step: int | None = None,
    dtype: str = "as-saved",
    tokenizer: str | None = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Exported:
    """Write `checkpoint` as a folder that `AutoModelForCausalLM` loads, with `srp.json` where its data are recorded.

    Args:
        checkpoint: a run's `--save` folder, or one iteration's in it.
        out: folder to write, whole or not at all.
        step: which iteration; by default the latest.
        dtype: of the result, one of `DTYPES`.
        tokenizer: its folder or file, if the run's own is gone.
        overwrite: replace `out`.
        max_shard_bytes: size of a file of the result, if no single weight is larger.

    Raises:
        InputError: when the checkpoint cannot be read, or its architecture is not Llama's.
        UsageError: when `out` exists, or for an unknown dtype.
        OutputError: when it cannot be written.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r}; choose from {', '.join(DTYPES)}")

    from megatron_srp.checkpoints.hf_tokenizer import save_tokenizer
    from megatron_srp.checkpoints.megatron_checkpoint import MegatronCheckpoint
    from megatron_srp.training.checks.data_record import chat_template_of

    source = MegatronCheckpoint(checkpoint, step)
    text_tokenizer = _tokenizer(source.args, tokenizer)
    vocab_size = max(text_tokenizer.vocab_size, getattr(source.args, "vocab_size", None) or 0)
    shape = shape_of_megatron(source.args, vocab_size, str(source.folder))
    table = weights(shape)
    _check_tensors(source, table)
    final = _dtype(source, dtype)
    description = describe_trained(getattr(source.args, "srp_data", None))
    with whole_folder(out, overwrite, marker="config.json") as folder:
        token_ids = save_tokenizer(text_tokenizer, folder, chat_template_of(_data_of(source.args)))
        num_bytes = _write_shards(source, table, folder, final, max_shard_bytes)
        _write_configs(shape, final, token_ids, folder)
        if description:
            description.write(folder)
    return Exported(
        source=source.folder,
        folder=out,
        num_params=num_bytes // final.itemsize,
        num_bytes=num_bytes,
        dtype=str(final).removeprefix("torch."),
        shape=shape,
        tokenizer=text_tokenizer.model,
        padding_rows=source.tensors[table[0].megatron].size[0] - vocab_size,
        description=description,
    )


def _data_of(args: Any) -> dict[str, Any]:
    """What the run records of its data; nothing in a checkpoint of other tools."""
    return getattr(args, "srp_data", None) or {}


def _tokenizer(args: Any, model: str | None) -> TextTokenizer:
    """The run's tokenizer, with the end-of-document token of its data."""
    model = model or args.tokenizer_model
    if model is None:
        raise UsageError(f"the run had no tokenizer ({args.tokenizer_type}); pass one with --tokenizer-model")
    is_hf = Path(model).suffix == ".json" or (Path(model) / "tokenizer.json").is_file()
    try:
        end = recorded_in(_data_of(args)) or {}
        return load_tokenizer("HuggingFaceTokenizer" if is_hf else args.tokenizer_type, model, end.get("token"))
    except UsageError as error:
        raise UsageError(f"the run's tokenizer: {error}; pass its new path with --tokenizer-model") from None


def _check_tensors(source: "MegatronCheckpoint", table: list[Weight]) -> None:
    """Refuse a checkpoint with weights that are not in the table, or a vocabulary smaller than the tokenizer's."""
    known = {source.stored(weight.megatron, weight.layer)[0] for weight in table}
    left = sorted(set(source.tensors) - known)
    if left:
        raise InputError(f"{source.folder}: cannot be exported as a Llama, which has no {', '.join(left[:3])}")
    for weight in table:
        if weight.layer in (None, 0):
            _check_size(source, weight)


def _check_size(source: "MegatronCheckpoint", weight: Weight) -> None:
    size = tuple(source.size(weight.megatron, weight.layer))
    has_vocabulary = weight.layer is None and len(weight.shape) == 2
    if has_vocabulary and size[0] < weight.shape[0]:
        raise InputError(
            f"{source.folder}: {weight.megatron} has {size[0]} rows and the tokenizer {weight.shape[0]} tokens: "
            f"it is not the tokenizer of this run"
        )
    if size[has_vocabulary:] != weight.shape[has_vocabulary:]:
        raise InputError(f"{source.folder}: {weight.megatron} is {size}, its arguments say {weight.shape}")


def _dtype(source: "MegatronCheckpoint", name: str) -> "torch.dtype":
    import torch

    saved = source.tensors["embedding.word_embeddings.weight"].properties.dtype
    chosen = saved if name == "as-saved" else getattr(torch, name)
    assert isinstance(chosen, torch.dtype)
    return chosen


def _plan(table: list[Weight], itemsize: int, max_bytes: int) -> list[list[Weight]]:
    """The weights of each file: as many as fit, but at least one."""
    import math

    files: list[list[Weight]] = [[]]
    used = 0
    for weight in table:
        size = math.prod(weight.shape) * itemsize
        if files[-1] and used + size > max_bytes:
            files.append([])
            used = 0
        files[-1].append(weight)
        used += size
    return files


def _write_shards(
    source: "MegatronCheckpoint", table: list[Weight], folder: Path, dtype: "torch.dtype", max_bytes: int
) -> int:
    """Write the weights, and an index if there are several files; returns the bytes of all weights."""
    from megatron_srp.files import write_json

    files = _plan(table, dtype.itemsize, max_bytes)
    weight_map: dict[str, str] = {}
    total = 0
    for number, part in enumerate(files, 1):
        name = "model.safetensors" if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors = {key: tensor for weight in part for key, tensor in _read(source, weight, dtype).items()}
        _save(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(files) > 1:
        write_json(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )
    return total


def _read(source: "MegatronCheckpoint", weight: Weight, dtype: "torch.dtype") -> dict[str, "torch.Tensor"]:
    tensor = source.read(weight.megatron, weight.layer)[: weight.shape[0]]  # cut the vocabulary's padding
    parts = (part.to(dtype).contiguous() for part in weight.split(tensor))
    return dict(zip(weight.llama, parts, strict=True))


def _save(tensors: dict[str, "torch.Tensor"], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk, say
        raise OutputError(f"{path}: {error}; nothing was written") from None
    path.chmod(0o644)  # the library leaves it readable to its owner only


def _write_configs(shape: LlamaShape, dtype: "torch.dtype", token_ids: "TokenIds", folder: Path) -> None:
    from transformers import GenerationConfig

    from megatron_srp.files import write_json

    config = to_hf_config(shape, str(dtype).removeprefix("torch."), **token_ids)
    config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", written | rope_of_old(config.rope_parameters))
    eos = token_ids["eos_token_id"]
    any_eos = eos[0] if isinstance(eos, list) else eos
    pad = token_ids["pad_token_id"] if token_ids["pad_token_id"] is not None else any_eos
    GenerationConfig(**{**token_ids, "pad_token_id": pad}).save_pretrained(folder)
