"""SmolLM2's real weights on a machine without network, from the file of 98 MB in which a package registry has them.

    python -m megatron_srp.benchmarks.gpu.real_model split FILE.gguf FOLDER    parts, each small enough to travel
    python -m megatron_srp.benchmarks.gpu.real_model make SOURCE OUT           OUT/hf, and OUT/start to train from

SOURCE is the file, the folder of its parts, or a Hugging Face folder. Reading GGUF needs the package gguf.
"""

import json
import lzma
import shutil
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srp.errors import InputError, UsageError, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerFast

PART_BYTES = 62 << 20  # less than the 64 MiB that a transfer may take; compressed, the rest leaves room for the wheels
_BLOCK = 1 << 20
_VOCABULARY, _NORM_EPSILON = 49_152, 1e-5


def split(file: Path, folder: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Compress `file` into `folder`/NAME.xz.000, .001 and so on; returns the parts."""
    folder.mkdir(parents=True, exist_ok=True)
    data = lzma.compress(file.read_bytes(), preset=1)
    parts = []
    for number, begin in enumerate(range(0, len(data), part_bytes)):
        parts.append(folder / f"{file.name}.xz.{number:03}")
        parts[-1].write_bytes(data[begin : begin + part_bytes])
    return parts


def join(folder: Path, out: Path) -> Path:
    """The file whose parts are in `folder`, written to the folder `out`.

    Raises:
        InputError: when there are no parts, or not all of them.
    """
    parts = sorted(folder.glob("*.xz.[0-9][0-9][0-9]"))
    names = {part.name[:-4] for part in parts}
    if len(names) != 1:
        raise InputError(f"{folder}: {'parts of several files' if names else 'no parts (*.xz.000)'}; give one file's")
    file, decoder = out / names.pop().removesuffix(".xz"), lzma.LZMADecompressor()
    try:
        with file.open("wb") as target:
            for part in parts:
                target.write(decoder.decompress(part.read_bytes()))
    except (lzma.LZMAError, EOFError) as error:
        raise InputError(f"{folder}: the parts do not fit together ({error}); split the file again") from None
    if not decoder.eof:
        raise InputError(f"{folder}: the last part is missing; there are {len(parts)}")
    return file


def make(source: Path, out: Path) -> None:
    """The model as a Hugging Face folder and as a checkpoint, and `flags.json`: the trainer's, to start from it."""
    from megatron_srp.checkpoints.import_hf import import_hf

    out.mkdir(parents=True, exist_ok=True)
    model = out / "hf"
    with tempfile.TemporaryDirectory(dir=out) as temporary, _gguf_file(source, Path(temporary)) as file:
        if file is None:
            shutil.copytree(source, model, dirs_exist_ok=True)
        else:
            convert(file, model)
    done = import_hf(model, out / "start", overwrite=True)
    (out / "flags.json").write_text(json.dumps(done.flags))


@contextmanager
def _gguf_file(source: Path, temporary: Path) -> "Iterator[Path | None]":
    """None where the source is a Hugging Face folder."""
    if (source / "config.json").is_file():
        yield None
    elif source.is_dir():
        whole = next(iter(sorted(source.glob("*.gguf"))), None)
        yield whole or join(source, temporary)
    elif source.is_file():
        yield source
    else:
        raise InputError(f"{source}: no such file or folder; give a GGUF file, the folder of its parts or a model")


def convert(file: Path, out: Path) -> None:
    """SmolLM2's GGUF file as a Hugging Face folder in fp32.

    Raises:
        UsageError: without the package gguf.
        InputError: for a file that is damaged, or another model's.
    """
    if find_spec("gguf") is None:
        raise UsageError(f"{file.name} is GGUF, which transformers reads with the package gguf: install it")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, logging

    logging.disable_progress_bar()
    try:
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file}: cannot be read ({str(error).splitlines()[0][:120]})") from None
    config = read.config.to_dict()
    if (config["model_type"], config["vocab_size"]) != ("llama", _VOCABULARY):
        raise InputError(f"{file}: {config['model_type']} with {config['vocab_size']:,} tokens; this is for SmolLM2")
    # A model that was read from GGUF refuses to be saved, and its epsilon is the nearest fp32 to the real one.
    for name in ("quantization_config", "_name_or_path", "dtype"):
        config.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**config | {"rms_norm_eps": _NORM_EPSILON})).float()
    model.load_state_dict({name: tensor.float() for name, tensor in read.state_dict().items()})
    model.save_pretrained(out)
    split_numbers(tokenizer)
    tokenizer.save_pretrained(out)


def split_numbers(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Give it SmolLM2's rule that digits stand alone, which transformers does not take from GGUF, and no more."""
    from tokenizers import pre_tokenizers

    backend: Any = tokenizer.backend_tokenizer
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.model_max_length = 8192


def main(argv: list[str]) -> None:
    if len(argv) != 3 or argv[0] not in ("split", "make"):
        raise UsageError("give split FILE.gguf FOLDER, or make SOURCE OUT")
    action, source, out = argv[0], Path(argv[1]), Path(argv[2])
    if action == "make":
        return make(source, out)
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    for part in split(source, out):
        print(f"{part}  {part.stat().st_size >> 20} MiB")
    return None


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
