"""SentencePiece models: one .model file, as Megatron's SentencePieceTokenizer takes it."""

import hashlib
import json
import re
from collections.abc import Collection
from copy import copy
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
import sentencepiece as spm

from megatron_srp.errors import UsageError
from megatron_srp.tokenization.base import TextTokenizer

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class SentencePieceTextTokenizer(TextTokenizer):
    def __init__(self, tokenizer_type: str, tokenizer_model: str | Path) -> None:
        self.type, self.model = tokenizer_type, Path(tokenizer_model)
        if not self.model.is_file():
            raise UsageError(f"--tokenizer-model {tokenizer_model}: no such file; {tokenizer_type} takes a .model file")
        self._bytes = self.model.read_bytes()
        try:
            self._tokenizer = spm.SentencePieceProcessor(model_proto=self._bytes)
        except RuntimeError:
            raise UsageError(f"--tokenizer-model {tokenizer_model}: not a SentencePiece model") from None
        self.vocab_size = self._tokenizer.vocab_size()
        eos = self._tokenizer.eos_id()
        self.eos_id = eos if eos >= 0 else None
        self.eos_text = self._tokenizer.id_to_piece(eos) if eos >= 0 else None
        self.fingerprint = hashlib.sha256(self._bytes).hexdigest()[:32]
        self.token_bytes = np.array([self._width(i) for i in range(self.vocab_size)], np.uint16)
        self.extra_bytes = int(self.token_bytes[self.encode("a")].sum()) - 1

    def _width(self, i: int) -> int:
        piece = self._tokenizer.id_to_piece(i)
        return 1 if _BYTE_PIECE.fullmatch(piece) else len(piece.replace("▁", " ").encode())

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def encode_lists(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer.encode(texts, num_threads=-1)

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        pieces = self._tokenizer.encode(text, return_type="proto").pieces
        starts = list(accumulate((p.begin for p in pieces), max))
        return [p.id for p in pieces], starts

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)

    def token_id(self, name: str) -> int | None:
        found = self._tokenizer.piece_to_id(name)
        return found if self._tokenizer.id_to_piece(found) == name else None

    def token_name(self, token: int) -> str | None:
        return self._tokenizer.id_to_piece(token) if 0 <= token < self.vocab_size else None

    def token_text(self) -> list[bytes]:
        return [self._text(i) for i in range(self.vocab_size)]

    def _text(self, i: int) -> bytes:
        piece = self._tokenizer.id_to_piece(i)
        if self._tokenizer.is_control(i):
            return b""
        return bytes.fromhex(piece[3:5]) if _BYTE_PIECE.fullmatch(piece) else piece.replace("▁", " ").encode()

    def fast_json(self) -> str | None:
        import gigatoken

        try:
            tokenizer = gigatoken.Tokenizer.from_sentencepiece(self._bytes)
        except ValueError:  # unigram, or no byte fallback
            return None
        spec = dict(tokenizer._hf_config())  # no public name for the converted model; gigatoken is pinned
        spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["special"]]
        return json.dumps(spec)

    def special_pieces(self) -> dict[str, tuple[str, int]]:
        """Text and id of those of `unk`, `bos`, `eos` and `pad` that the model has."""
        ids = {name: getattr(self._tokenizer, f"{name}_id")() for name in ("unk", "bos", "eos", "pad")}
        return {name: (self._tokenizer.id_to_piece(i), i) for name, i in ids.items() if i >= 0}

    def _parse(self) -> Any:
        from sentencepiece import sentencepiece_model_pb2

        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(self._bytes)
        return model

    def reading_as_text(self, names: Collection[str]) -> Self:
        other, model = copy(self), self._parse()
        for piece in model.pieces:
            if piece.piece in names and piece.type == piece.USER_DEFINED:
                piece.type = piece.CONTROL
        other._bytes = model.SerializeToString()
        other._tokenizer = spm.SentencePieceProcessor(model_proto=other._bytes)
        return other

    def save_with_added_tokens(self, tokens: list[str], folder: Path) -> "SentencePieceTextTokenizer":
        model = self._parse()
        known = {piece.piece: piece for piece in model.pieces}
        for token in tokens:
            piece = known.get(token) or model.pieces.add(piece=token, score=0.0)
            piece.type = piece.USER_DEFINED
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "tokenizer.model"
        file.write_bytes(model.SerializeToString())
        return SentencePieceTextTokenizer(self.type, file).ending_documents_with(self.eod_token)
