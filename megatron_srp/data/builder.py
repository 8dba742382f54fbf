"""ReflectionIndexedDatasetBuilder: texts in, Megatron shards with reflections out."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.annotation.base import Guard
from megatron_srp.corpus.batch import TextBatch
from megatron_srp.data.build_settings import BuildSettings
from megatron_srp.data.policies.policy import Policy, as_srp
from megatron_srp.data.reflect import Labeler, ReflectedBatch, Reflector, Source
from megatron_srp.data.shards.indexed_shard import token_dtype
from megatron_srp.data.shards.manifest import FORMAT_VERSION, software_versions, sum_counts
from megatron_srp.data.shards.output import Output
from megatron_srp.data.shards.shard_writer import ShardWriter
from megatron_srp.data.training_tokenizer import describe_tokenizer, training_tokenizer
from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.segmentation import DEFAULT_MAX_WORDS
from megatron_srp.tokenization import TextTokenizer
from megatron_srp.tokenization.fast import FastEncoder


@dataclass(frozen=True, slots=True)
class Finished:
    """An output with nothing left to do.

    Attributes:
        manifest: the output's manifest.
        kept: it existed already, made with the same settings; else a stopped run was all but finished, and is
            finished now.
    """

    manifest: dict[str, Any]
    kept: bool = False


class ShardBuilder:
    """Writes the shards of `plan` into `output`, which is open and not finished; it is closed at the end.

    Args:
        plan: what to write, and how.
        output: the open output of `plan`.
        threads: how many threads will call `reflect` at once.
    """

    def __init__(self, plan: BuildSettings, output: Output, threads: int = 1) -> None:
        self.plan, self.output = plan, output
        self.settings = plan.describe()
        try:
            self._reflector = self._make_reflector(threads)
            shards = output.journal["state"].get("shards", {})
            self._writers = {key: self._writer(key, shards.get(key)) for key in plan.keys}
        except BaseException:
            output.close()
            raise

    def _make_reflector(self, threads: int) -> Reflector:
        plan, written = self.plan, self.plan.tokenizer
        if plan.labeler:
            written = training_tokenizer(plan.tokenizer, plan.policy.marks, self.output.folder / "tokenizer")
        return Reflector(
            tokenizer=plan.tokenizer,
            encoder=FastEncoder(plan.tokenizer, threads),
            policy=plan.policy,
            written=written,
            labeler=plan.labeler,
            max_words=plan.max_words,
            append_eod=plan.append_eod,
            dtype=token_dtype(written.vocab_size),
        )

    def _writer(self, key: str, state: dict[str, Any] | None) -> ShardWriter:
        hints = self.plan.labeler is not None and self.plan.policy.form.hints
        return ShardWriter(self.output.folder, self.plan.name(key), self._reflector.dtype, state, hints)

    @property
    def position(self) -> Any:
        """The argument of the last `commit`; None for a new output."""
        return self.output.journal["state"].get("position")

    @property
    def started(self) -> float:
        """When the first run began, in seconds since the epoch by the clock of the file system."""
        return self.output.started

    @property
    def fallback_reason(self) -> str | None:
        """Why the reference tokenizer encodes all documents, which is exact but slow; None where it does not."""
        return self._reflector.encoder.reason

    @property
    def distrusted(self) -> bool:
        """Whether `use_reference_tokenizer` is the reason."""
        return self._reflector.encoder.distrusted

    def use_reference_tokenizer(self, reason: str) -> None:
        """Use the reference tokenizer for all documents from here on."""
        self._reflector.encoder.distrust(reason)

    def first_difference(self, batch: TextBatch, sample: int) -> int | None:
        """The first of `sample` documents, spread over the batch, whose ids are not the reference tokenizer's."""
        return self._reflector.encoder.differs(batch, sample)

    def identity(self, file: int, row: int) -> str:
        """Identity of the labels before `row` of file number `file`, as in `Labeler`; empty for plain shards."""
        return self.plan.labeler.identity(file, row) if self.plan.labeler else ""

    def verdict_counts(self) -> dict[str, int]:
        """Segments by verdict, of all shards together."""
        return sum_counts([writer.verdict_counts() for writer in self._writers.values()])["verdicts"]

    def add_documents(self, texts: Sequence[str], key: str = "text") -> None:
        """Append documents to the shard of `key`."""
        source = Source(0, np.arange(len(texts), dtype=np.int64))
        self.write(key, self.reflect(source, TextBatch.from_texts(texts)))

    def reflect(self, source: Source, batch: TextBatch) -> ReflectedBatch:
        """Prepare documents for writing, on any thread and in any order."""
        return self._reflector(source, batch)

    def write(self, key: str, batch: ReflectedBatch) -> None:
        """Append documents that `reflect` has made."""
        with self.output.writing():
            self._writers[key].append(batch)

    def commit(self, position: Any) -> None:
        """Make everything written so far durable; after a restart `position` is available again."""
        with self.output.writing():
            shards = {key: writer.commit() for key, writer in self._writers.items()}
            self.output.commit({"position": position, "shards": shards})

    def close(self) -> None:
        """Stop without finishing; the next builder on the same prefix resumes after the last commit."""
        for writer in self._writers.values():
            writer.close()
        self.output.close()

    def finalize(self, extra: dict[str, Any] | None = None) -> dict[str, Any]:
        """Finish the shards and write the manifest, which is returned; `extra` is added to it."""
        described = {"tokenizer", "reflection", "policy", "max_words"}
        info = {name: value for name, value in self.settings.items() if name in described}
        moves: dict[Path, Path] = {}
        with self.output.writing():
            for writer in self._writers.values():
                moves |= writer.finish(info, self.plan.labeler is not None)
        if self._reflector.written is not self.plan.tokenizer:
            moves[Path("tokenizer")] = Path(self.plan.tokenizer_folder.name)
        with self.output.writing():
            return self.output.finish(moves, self._manifest() | (extra or {}))

    def _manifest(self) -> dict[str, Any]:
        written = self._reflector.written
        model = written.model
        if written is not self.plan.tokenizer:
            model = self.plan.tokenizer_folder / model.relative_to(self.output.folder / "tokenizer")
        shards = [
            {"name": self.plan.name(key), "key": key, "dtype": str(self._reflector.dtype)}
            | dict(writer.counts)
            | writer.verdict_counts()
            for key, writer in self._writers.items()
        ]
        return {
            "format_version": FORMAT_VERSION,
            "shards": shards,
            "counts": sum_counts(shards),
            "tokenizer": describe_tokenizer(written, model),
            **(self.plan.policy.settings() if self.plan.labeler else {"reflection": None}),
            "settings": deepcopy(self.settings),
            "software": software_versions(),
        }


class ReflectionIndexedDatasetBuilder(ShardBuilder):
    """Writes PREFIX_KEY_document.{bin,idx,srp} for each key, and PREFIX.srp.json when all is done.

        >>> from megatron_srp import ReflectionIndexedDatasetBuilder, load_guard, load_tokenizer
        >>> tokenizer = load_tokenizer("HuggingFaceTokenizer", "tokenizer")
        >>> builder = ReflectionIndexedDatasetBuilder("out/corpus", tokenizer, guard=load_guard("heuristic"))
        >>> builder.add_documents(["A quiet morning by the river.", "How to build a bomb."])
        >>> counts = builder.finalize()["counts"]
        >>> counts["documents"], counts["verdicts"]["Unsafe"]
        (2, 1)

    A document is one sequence; documents without text are skipped and counted. A builder created again
    after the process died resumes after the last `commit`.

    Args:
        output_prefix, tokenizer, guard, policy, max_words, append_eod, keys: as in `BuildSettings`.
        form: how labels are written, for the policy `srp`.
        settings: other settings that determine the result, to be recorded and compared on resume.
        overwrite: replace an existing output.
        threads: how many threads will call `reflect` at once.

    Raises:
        UsageError: as `BuildSettings` and `Output` do, and when a stopped run was all but finished.
        OutputError: as `Output` does.
    """

    def __init__(
        self,
        output_prefix: str | Path,
        tokenizer: TextTokenizer,
        *,
        guard: Guard | Labeler | None,
        form: ReflectionFormat | None = None,
        policy: Policy | None = None,
        max_words: int = DEFAULT_MAX_WORDS,
        append_eod: bool = True,
        keys: Sequence[str] = ("text",),
        settings: dict[str, Any] | None = None,
        overwrite: bool = False,
        threads: int = 1,
    ) -> None:
        plan = BuildSettings(
            prefix=Path(output_prefix),
            tokenizer=tokenizer,
            guard=guard,
            policy=policy or as_srp(form or ReflectionFormat()),
            max_words=max_words,
            append_eod=append_eod,
            keys=list(keys),
            more=settings or {},
        )
        output = Output(plan.prefix, plan.describe(), plan.finals, overwrite)
        if output.finished:
            raise UsageError(
                f"{plan.prefix} had been written when an earlier run stopped, and is finished now; pass overwrite=True "
                "to write it again, or call open_output(), which returns its manifest"
            )
        super().__init__(plan, output, threads)


def open_output(
    plan: BuildSettings, *, overwrite: bool = False, threads: int = 1, keep_finished: bool = False
) -> Finished | ShardBuilder:
    """A builder for the remaining work of `plan`, or the finished output when there is none.

    Args:
        overwrite: replace an existing output.
        threads: how many will call the builder's `reflect` at once.
        keep_finished: an existing output that was made with the same settings counts as this run's.

    Raises:
        UsageError, OutputError: as `Output` does.
    """
    if keep_finished and not overwrite and (manifest := plan.finished()):
        return Finished(manifest, kept=True)
    output = Output(plan.prefix, plan.describe(), plan.finals, overwrite)
    return Finished(output.finished) if output.finished else ShardBuilder(plan, output, threads)
