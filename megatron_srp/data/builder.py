"""ReflectionIndexedDatasetBuilder: texts in, Megatron shards with reflections out."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.annotation.base import Guard
from megatron_srp.corpus.batch import TextBatch
from megatron_srp.data.reflect import GuardLabeler, Labeler, ReflectedBatch, Reflector, Source
from megatron_srp.data.shards.indexed_shard import bin_path, idx_path, token_dtype
from megatron_srp.data.shards.manifest import FORMAT_VERSION, manifest_path, read_manifest, software_versions
from megatron_srp.data.shards.output import Output
from megatron_srp.data.shards.shard_writer import ShardWriter
from megatron_srp.data.shards.sidecar import sidecar_path
from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words
from megatron_srp.tokenization import TextTokenizer
from megatron_srp.tokenization.fast import FastEncoder


class ReflectionIndexedDatasetBuilder:
    """Writes PREFIX_KEY_document.{bin,idx,srp} for each key, and PREFIX.srp.json when all is done.

        >>> from megatron_srp import ReflectionIndexedDatasetBuilder, load_guard, load_tokenizer
        >>> tokenizer = load_tokenizer("HuggingFaceTokenizer", "tokenizer")
        >>> builder = ReflectionIndexedDatasetBuilder("out/corpus", tokenizer, guard=load_guard("heuristic"))
        >>> builder.add_documents(["A quiet morning by the river.", "How to build a bomb."])
        >>> counts = builder.finalize()["counts"]
        >>> counts["documents"], counts["verdicts"]["Unsafe"]
        (2, 1)

    A document is one sequence; documents without text are left out and counted. A builder that is made
    again after the process died goes on behind the last `commit`.

    Args:
        output_prefix: of the files.
        tokenizer: the base tokenizer.
        guard: a classifier, a `Labeler`, or None for plain shards.
        form: how labels are written.
        max_words: most words in a segment.
        append_eod: whether documents end with the tokenizer's end-of-document id.
        keys: names of the shards.
        settings: whatever else decides the result, to be recorded and compared on resume.
        overwrite: replace what is there.
        threads: how many will call `reflector` at once.
        keep_finished: an output that is there and was made with the same settings counts as this run's.

    Raises:
        UsageError, OutputError: as `Output` does.
    """

    def __init__(
        self,
        output_prefix: str | Path,
        tokenizer: TextTokenizer,
        *,
        guard: Guard | Labeler | None,
        form: ReflectionFormat | None = None,
        max_words: int = DEFAULT_MAX_WORDS,
        append_eod: bool = True,
        keys: Sequence[str] = ("text",),
        settings: dict[str, Any] | None = None,
        overwrite: bool = False,
        threads: int = 1,
        keep_finished: bool = False,
    ) -> None:
        self.form = form or ReflectionFormat()
        if self.form.special_tokens:  # a tokenizer may have them already, and a page must not forge them
            tokenizer = tokenizer.reading_as_text([self.form.open, self.form.close])
        self.prefix, self.keys, self.tokenizer = Path(output_prefix), list(keys), tokenizer
        self.labeler = GuardLabeler(guard) if isinstance(guard, Guard) else guard
        self.threads = threads
        self.max_words, self.append_eod = check_max_words(max_words), append_eod
        if append_eod or self.labeler:
            tokenizer.require_eos()
            refuse_forgeable(tokenizer, self.form if self.labeler else None)
        self.settings = self._describe() | (settings or {})
        if isinstance(self.labeler, GuardLabeler):
            self.settings |= self.labeler.settings
        self.writers: dict[str, ShardWriter] = {}
        self.kept = self._finished_before() if keep_finished and not overwrite else None
        if self.kept:
            return
        self.output = Output(self.prefix, self.settings, self._finals(), overwrite)
        if self.output.finished:
            return
        try:
            self.reflector = self._reflector()
            shards = self.output.journal["state"].get("shards", {})
            self.writers |= {key: self._writer(key, shards.get(key)) for key in self.keys}
        except BaseException:
            self.output.close()
            raise

    def _describe(self) -> dict[str, Any]:
        reflection = {"reflection": self.form.describe(), "max_words": self.max_words} if self.labeler else {}
        return {
            "tokenizer": {"type": self.tokenizer.type, "fingerprint": self.tokenizer.fingerprint},
            "append_eod": self.append_eod,
            "keys": self.keys,
            **reflection,
        }

    def _finished_before(self) -> dict[str, Any] | None:
        """The manifest of an output that is there, if it was made with the same settings."""
        path = manifest_path(self.prefix)
        manifest = read_manifest(path) if path.exists() else None
        return manifest if manifest and manifest["settings"] == json.loads(json.dumps(self.settings)) else None

    def _name(self, key: str) -> str:
        return f"{self.prefix.name}_{key}_document"

    @property
    def _tokenizer_folder(self) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}_tokenizer")

    def _finals(self) -> list[Path]:
        shards = [self.prefix.with_name(self._name(key)) for key in self.keys]
        return [path(shard) for shard in shards for path in (bin_path, idx_path, sidecar_path)]

    def _reflector(self) -> Reflector:
        written = self.tokenizer
        if self.labeler:
            written = training_tokenizer(self.tokenizer, self.form, self.output.folder / "tokenizer")
        return Reflector(
            self.tokenizer,
            FastEncoder(self.tokenizer, self.threads),
            self.form,
            written,
            self.labeler,
            self.max_words,
            self.append_eod,
            token_dtype(written.vocab_size),
        )

    def _writer(self, key: str, state: dict[str, Any] | None) -> ShardWriter:
        hints = self.labeler is not None and self.form.hints
        return ShardWriter(self.output.folder, self._name(key), self.reflector.dtype, state, hints)

    @property
    def finished(self) -> dict[str, Any] | None:
        """The manifest, when an earlier run had only its finish left to do, which is done now, or was kept."""
        return self.kept or self.output.finished

    @property
    def position(self) -> Any:
        """What the last `commit` was given; None for a new output."""
        return self.output.journal["state"].get("position")

    def add_documents(self, texts: Sequence[str], key: str = "text") -> None:
        """Append documents to the shard of `key`."""
        source = Source(0, np.arange(len(texts), dtype=np.int64))
        self.write(key, self.reflector(source, TextBatch.from_texts(texts)))

    def write(self, key: str, batch: ReflectedBatch) -> None:
        """Append documents that `reflector` has made, on whatever thread."""
        with self.output.writing():
            self.writers[key].append(batch)

    def commit(self, position: Any) -> None:
        """Make everything durable that was written so far; `position` comes back after a restart."""
        with self.output.writing():
            shards = {key: writer.commit() for key, writer in self.writers.items()}
            self.output.commit({"position": position, "shards": shards})

    def close(self) -> None:
        """Stop without finishing; the next builder on the same prefix goes on from the last commit."""
        for writer in self.writers.values():
            writer.close()
        self.output.close()

    def finalize(self, extra: dict[str, Any] | None = None) -> dict[str, Any]:
        """Finish the shards and write the manifest, which is returned; `extra` is added to it."""
        described = {"tokenizer", "reflection", "max_words"}
        info = {name: value for name, value in self.settings.items() if name in described}
        moves: dict[Path, Path] = {}
        with self.output.writing():
            for writer in self.writers.values():
                moves |= writer.finish(info, self.labeler is not None)
        if self.reflector.written is not self.tokenizer:
            moves[Path("tokenizer")] = Path(self._tokenizer_folder.name)
        with self.output.writing():
            return self.output.finish(moves, self._manifest() | (extra or {}))

    def _manifest(self) -> dict[str, Any]:
        written = self.reflector.written
        model = written.model
        if written is not self.tokenizer:
            model = self._tokenizer_folder / model.relative_to(self.output.folder / "tokenizer")
        shards = [
            {"name": self._name(key), "key": key, "dtype": str(self.reflector.dtype)}
            | dict(writer.counts)
            | writer.verdict_counts()
            for key, writer in self.writers.items()
        ]
        return {
            "format_version": FORMAT_VERSION,
            "shards": shards,
            "counts": sum_counts(shards),
            "tokenizer": describe_tokenizer(written, model),
            "reflection": self.form.describe() if self.labeler else None,
            "settings": copy.deepcopy(self.settings),
            "software": software_versions(),
        }


def training_tokenizer(tokenizer: TextTokenizer, form: ReflectionFormat, folder: Path) -> TextTokenizer:
    """What reflections are encoded and a model is trained with: `tokenizer` itself, or, in `folder`, that
    one with the tokens that `form` adds."""
    return tokenizer.save_with_added_tokens([form.open, form.close], folder) if form.special_tokens else tokenizer


def refuse_forgeable(tokenizer: TextTokenizer, form: ReflectionFormat | None, shards: bool = False) -> None:
    """Raises UsageError where a page could write what only we may write: end-of-text, or the tokens of `form`.

    Args:
        shards: the pages are shards of someone else, who may have read any name of a token as that token.
    """
    if not shards and tokenizer.text_can_be(tokenizer.eos_text or ""):
        raise UsageError(
            f"the tokenizer {tokenizer.model} reads {tokenizer.eos_text} in a text as its end-of-text token, so that "
            'any page could end a document; make it an added token with "special": true in tokenizer.json'
        )
    for mark in (form.open, form.close) if form and form.special_tokens else ():
        if tokenizer.token_id(mark) is not None if shards else tokenizer.text_can_be(mark):
            raise UsageError(
                f"--reflection-tokens special: {mark} is a token of {tokenizer.model} already, and any page that "
                f"contains it could pass for a reflection; give --reflection-tokens text"
            )


def describe_tokenizer(tokenizer: TextTokenizer, model: Path) -> dict[str, Any]:
    """As a manifest names it; `model` is where it will be."""
    return {
        "type": tokenizer.type,
        "model": str(model.resolve()),
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "fingerprint": tokenizer.fingerprint,
    }


def sum_counts(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of all shards together."""
    total: dict[str, Any] = {}
    for name in ("documents", "empty_documents", "segments", "plain_tokens", "tokens"):
        total[name] = sum(shard.get(name, 0) for shard in shards)
    for name in ("verdicts", "categories"):
        keys = sorted({key for shard in shards for key in shard[name]})
        total[name] = {key: sum(shard[name].get(key, 0) for shard in shards) for key in keys}
    hints = sum(shard.get("hints", 0) for shard in shards)
    return total | ({"hints": hints} if hints else {})
