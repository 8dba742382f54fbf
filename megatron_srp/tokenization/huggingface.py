"""Hugging Face tokenizers: a folder with tokenizer.json, that file itself, or a name on the hub."""

import json
import re
from collections.abc import Callable, Collection, Iterator
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
from tokenizers import Tokenizer

from megatron_srp.errors import UsageError
from megatron_srp.files import digest, digest_of_bytes
from megatron_srp.model_description import FILE
from megatron_srp.tokenization.base import TextTokenizer

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_NAMES_FILE = "special_tokens_map.json"  # written by transformers 4
_JOINING_DECODERS = {"Metaspace", "ByteFallback"}  # of tokenizers that write a space as `▁`


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes a byte that is a printable Latin-1 character as that character, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


def _find(model: str | Path) -> Path:
    """The tokenizer.json that `model` names, fetched from the hub when it is not a local path."""
    path = Path(model)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return file
    if path.exists() or len(path.parts) > 2 or path.is_absolute():
        raise UsageError(
            f"--tokenizer-model {model}: it has no tokenizer.json; pass a folder that has one (save the "
            "tokenizer with save_pretrained of a fast tokenizer) or a name on the Hugging Face hub"
        )
    try:
        from huggingface_hub import snapshot_download

        files = ["tokenizer*", _NAMES_FILE, "chat_template.jinja", FILE]
        return Path(snapshot_download(str(model), allow_patterns=files)) / "tokenizer.json"
    except Exception as error:  # the hub client raises the errors of many libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"--tokenizer-model {model}: no such folder, and not on the Hugging Face hub ({reason})"
        ) from None


def _read_json(file: Path, loads: Callable[[bytes], Any] = json.loads) -> dict[str, Any]:
    try:
        content: dict[str, Any] = loads(file.read_bytes())
        return content
    except ValueError as error:
        raise UsageError(f"{file} is not valid JSON ({error}); save the tokenizer again") from None


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with the special tokens' names as transformers reads them: those of
    special_tokens_map.json take precedence, unless the configuration lists the added tokens itself."""
    config, names = folder / "tokenizer_config.json", folder / _NAMES_FILE
    found = _read_json(config) if config.is_file() else {}
    if "added_tokens_decoder" not in found and names.is_file():
        found |= {key: _name(token) for key, token in _read_json(names).items() if key.endswith("_token")}
    return found


def _name(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


def _parts(spec: dict[str, Any] | None, nested: str) -> Iterator[dict[str, Any]]:
    """A pre-tokenizer, normalizer or decoder, or the parts of a Sequence of them."""
    if spec:
        yield from spec.get(nested, [spec]) if spec["type"] == "Sequence" else [spec]


class HuggingFaceTextTokenizer(TextTokenizer):
    has_unicode_rules = True

    def __init__(self, tokenizer_type: str, tokenizer_model: str | Path) -> None:
        file = _find(tokenizer_model)
        self.type, self.model = tokenizer_type, file.parent
        self._spec = _read_json(file, orjson.loads)  # several MB; json keeps the configuration's large integers
        self._config = read_config(file.parent)
        self.eos_text: str | None = _name(self._config.get("eos_token"))
        try:
            self._tokenizer = Tokenizer.from_buffer(orjson.dumps(self._spec))
        except Exception as error:  # the Rust library raises plain Exception
            raise UsageError(f"{file}: tokenizers cannot load it ({error})") from None
        # Some files declare it an ordinary word, which any page could write to end a document.
        self._make_special([self.eos_text])
        vocab = self._vocabulary()
        self.vocab_size = max(vocab.values()) + 1
        self.eos_id = vocab.get(self.eos_text or "")
        self.fingerprint = self._fingerprint()
        self.token_bytes = self._widths(vocab)
        self.extra_bytes = int(self.token_bytes[self.encode("a")].sum()) - 1

    def _vocabulary(self) -> dict[str, int]:
        """Every token and its id. Of a large vocabulary the reference takes a moment to make it."""
        vocab = self._spec["model"].get("vocab")
        if isinstance(vocab, dict):
            ids = {token["content"]: self._tokenizer.token_to_id(token["content"]) for token in self.added_tokens}
            found: dict[str, int] = vocab | {name: i for name, i in ids.items() if i is not None}
            if len(found) == self._tokenizer.get_vocab_size(with_added_tokens=True):
                return found
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def _fingerprint(self) -> str:
        """A hash of what determines the ids, and of the end of text."""
        behaviour = {name: self._spec.get(name) for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
        model, content = behaviour["model"] or {}, [behaviour, self.eos_id]
        if isinstance(model.get("vocab"), dict) and not model.get("dropout"):
            # Without numbers that the two write differently, this is `digest`, in a fraction of the time.
            return digest_of_bytes(orjson.dumps(content, option=orjson.OPT_SORT_KEYS))
        return digest(content)

    @property
    def added_tokens(self) -> list[dict[str, Any]]:
        """The tokens in addition to the vocabulary, as in tokenizer.json; special ones are never text."""
        added: list[dict[str, Any]] = self._spec.get("added_tokens", [])
        return added

    def _make_special(self, names: Collection[str | None]) -> None:
        """Declare the added tokens `names` special: special tokens in a text are text."""
        self._marked: Tokenizer | None = None
        ordinary = [t for t in self._spec.get("added_tokens", []) if t["content"] in names and not t["special"]]
        for token in ordinary:
            token["special"] = True
        if ordinary:  # a large vocabulary takes a moment to load
            self._tokenizer = Tokenizer.from_buffer(orjson.dumps(self._spec))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def reading_as_text(self, names: Collection[str]) -> Self:
        other = copy(self)
        other._spec = json.loads(json.dumps(self._spec))
        other._make_special(names)
        return other

    def _widths(self, vocab: dict[str, int]) -> np.ndarray:
        """Byte-level pieces have a character per byte; SentencePiece-like ones write a space as `▁`."""
        byte_level = "ByteLevel" in self._part_types()
        added = {token["content"] for token in self._spec.get("added_tokens", [])}
        widths = np.zeros(self.vocab_size, np.uint16)
        if byte_level:
            widths[[*vocab.values()]] = [*map(len, vocab)]
        for piece, i in ((piece, vocab[piece]) for piece in added) if byte_level else vocab.items():
            if not byte_level and _BYTE_PIECE.fullmatch(piece):
                widths[i] = 1
            else:
                widths[i] = len((piece if byte_level else piece.replace("▁", " ")).encode())
        return widths

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_marked(self, text: str) -> list[int]:
        """The ids of a text in which the names of special tokens are those tokens, as in a rendered chat template."""
        if self._marked is None:
            self._marked = Tokenizer.from_buffer(orjson.dumps(self._spec))
            self._marked.no_truncation()
            self._marked.no_padding()
        return self._marked.encode(text, add_special_tokens=False).ids

    def encode_lists(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        byte_at = np.concatenate([[0], np.cumsum([len(c.encode()) for c in text], dtype=np.int64)])
        starts = byte_at[np.array([start for start, _ in encoding.offsets], np.int64)]
        return encoding.ids, np.maximum.accumulate(starts).tolist()

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def token_id(self, name: str) -> int | None:
        return self._tokenizer.token_to_id(name)

    def token_name(self, token: int) -> str | None:
        return self._tokenizer.id_to_token(token)

    def _part_types(self) -> set[str]:
        return {
            spec["type"]
            for spec in (
                *_parts(self._spec.get("pre_tokenizer"), "pretokenizers"),
                *_parts(self._spec.get("decoder"), "decoders"),
            )
        }

    def token_text(self) -> list[bytes]:
        byte_level = "ByteLevel" in self._part_types()
        if not (byte_level or self._part_types() & _JOINING_DECODERS):
            raise UsageError(
                f"the tokenizer {self.model} does not define which bytes of text its tokens stand for; only "
                "byte-level and SentencePiece-like tokenizers do. Preprocess the text itself (--input)"
            )
        byte_of = _byte_of_character()
        added = {token["content"]: token["special"] for token in self._spec.get("added_tokens", [])}
        texts = [b""] * self.vocab_size
        for piece, i in self._vocabulary().items():
            if piece in added:
                texts[i] = b"" if added[piece] else piece.encode()
            elif byte_level:
                texts[i] = bytes(byte_of[character] for character in piece)
            elif _BYTE_PIECE.fullmatch(piece):
                texts[i] = bytes.fromhex(piece[3:5])
            else:
                texts[i] = piece.replace("▁", " ").encode()
        return texts

    def fast_json(self) -> str | None:
        spec = self._spec | {"post_processor": None, "truncation": None, "padding": None}
        spec["added_tokens"] = [t for t in spec.get("added_tokens", []) if not t["special"]]
        if self.splits_digits:
            spec["pre_tokenizer"] = next(p for p in spec["pre_tokenizer"]["pretokenizers"] if p["type"] == "ByteLevel")
            digit = {
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
            spec["added_tokens"] += [{"id": spec["model"]["vocab"][d], "content": d, **digit} for d in "0123456789"]
        if missing := self._missing_bytes():
            spec["model"] = spec["model"] | {"vocab": spec["model"]["vocab"] | missing}
        return orjson.dumps(spec).decode()

    def _missing_bytes(self) -> dict[str, int]:
        """The characters, of the 256 that stand for bytes, that the vocabulary lacks, with ids beyond it. SmolLM2's
        lacks 21; the reference leaves them out of a text, and gigatoken refuses such a vocabulary."""
        vocab = self._spec["model"].get("vocab")
        if "ByteLevel" not in self._part_types() or not isinstance(vocab, dict):
            return {}
        missing = [character for character in _byte_of_character() if character not in vocab]
        return {character: self.vocab_size + i for i, character in enumerate(missing)}

    def unsettled_ids(self) -> set[int]:
        """Ids of bytes that the vocabulary lacks, and of added tokens with conditions, which gigatoken ignores."""
        conditions = ("single_word", "lstrip", "rstrip")
        added = self._spec.get("added_tokens", [])
        conditional = {t["id"] for t in added if not t["special"] and any(t.get(name) for name in conditions)}
        return conditional | {*self._missing_bytes().values()}

    @property
    def splits_digits(self) -> bool:
        """Whether the pre-tokenizer is SmolLM2's, Digits then ByteLevel, which gigatoken refuses.

        `fast_json` then declares the ten digits as added tokens, which splits the text at the same
        places, but for numerals beyond ASCII (½, ², ٣): such documents go to the reference."""
        specs = list(_parts(self._spec.get("pre_tokenizer"), "pretokenizers"))
        return (
            [spec["type"] for spec in specs] == ["Digits", "ByteLevel"]
            and bool(specs[0]["individual_digits"])
            and all(d in self._spec["model"].get("vocab", {}) for d in "0123456789")
        )

    def save_with_added_tokens(self, tokens: list[str], folder: Path) -> "HuggingFaceTextTokenizer":
        spec, next_id = json.loads(json.dumps(self._spec)), self.vocab_size
        known = {t["content"]: t for t in spec["added_tokens"]}
        for token in tokens:
            if token in known:
                known[token]["special"] = False  # else its name would be text here too
            else:
                spec["added_tokens"].append(
                    {"id": next_id, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
                    | {"normalized": False, "special": False}
                )
                next_id += 1
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(self._config, indent=2), encoding="utf-8")
        return HuggingFaceTextTokenizer(self.type, folder).ending_documents_with(self.eod_token)
