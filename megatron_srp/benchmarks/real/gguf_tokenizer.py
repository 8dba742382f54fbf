"""SmolLM2's tokenizer.json out of a GGUF file, which holds its vocabulary and merges but not its pre-tokenizer.

GGUF: magic, version, counts of tensors and of metadata; each entry of the metadata is a name, a type and a value
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CONTROL = 3  # the type of special tokens


def _unpack(file: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))[0]


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return file.read(_unpack(file, "Q")).decode()
    if kind == _ARRAY:
        inner, count = _unpack(file, "I"), _unpack(file, "Q")
        return [_value(file, inner) for _ in range(count)]
    return _unpack(file, _SCALARS[kind])


def read_metadata(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"
        _version, _tensors, count = (_unpack(file, form) for form in "IQQ")
        return {_value(file, _STRING): _value(file, _unpack(file, "I")) for _ in range(count)}


def write_tokenizer(path: Path, folder: Path) -> Path:
    """Write tokenizer.json and tokenizer_config.json into `folder`, and return it."""
    metadata = read_metadata(path)
    tokens, kinds = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    special = [{"id": i, "content": tokens[i], **flags} for i, kind in enumerate(kinds) if kind == _CONTROL]
    digits = {"type": "Digits", "individual_digits": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}}
    spec = {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "decoder": byte_level,
        "model": model | {"merges": metadata["tokenizer.ggml.merges"]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    eos = tokens[metadata["tokenizer.ggml.eos_token_id"]]
    config = {"eos_token": eos, "chat_template": metadata["tokenizer.chat_template"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
