"""The data job for existing shards: it keeps their tokens and makes a sidecar or a new shard for each."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.data.audited_labels import finish_audit, resume_audit, settled_at
from megatron_srp.data.detokenize import Detokenizer
from megatron_srp.data.policies.policy import refuse_in_shards
from megatron_srp.data.policies.treat import PieceEncoder
from megatron_srp.data.preprocess.shard_blocks import ShardBlock, read_blocks
from megatron_srp.data.preprocess.shard_reflect import ShardReflector
from megatron_srp.data.preprocess.shard_settings import ShardJobSettings
from megatron_srp.data.reflect import EntryEncoder, Labeler, ReflectedBatch
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.manifest import FORMAT_VERSION, software_versions, sum_counts
from megatron_srp.data.shards.output import Output
from megatron_srp.data.shards.shard_writer import ShardWriter
from megatron_srp.data.shards.sidecar_writer import SidecarWriter
from megatron_srp.data.training_tokenizer import describe_tokenizer, refuse_forgeable, training_tokenizer
from megatron_srp.errors import UsageError
from megatron_srp.ordered_map import ordered_map, thread_pool
from megatron_srp.terminal.progress import Progress


class ShardJob:
    """Reads, labels and writes; a new job with the same settings resumes a stopped run.

    Args:
        settings: what to do.
        labeler: labels the segments; a `Source` names the shard and the sequence.
        workers: threads that cut and label, in addition to the one that reads and writes.
        chunk_documents: sequences between commits to disk; the result does not depend on it.
        overwrite: replace an existing output.
        report: called after every block.

    Raises:
        UsageError, InputError, OutputError: as `Output` and `read_blocks` do.
    """

    def __init__(
        self,
        settings: ShardJobSettings,
        labeler: Labeler,
        *,
        workers: int = 1,
        chunk_documents: int = 100_000,
        overwrite: bool = False,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.settings, self.labeler, self.workers, self.report = settings, labeler, workers, report
        self.chunk_documents = chunk_documents
        self.names = settings.names
        self.detokenizer = Detokenizer(settings.tokenizer)
        refuse_forgeable(settings.tokenizer, settings.policy.marks, shards=True)
        if settings.materialize:
            refuse_in_shards(settings.policy)
        self.inputs = [IndexedShard(shard) for shard in settings.shards]
        for number in range(len(self.inputs)):  # most mistakes show in the first block: before anything is written
            next(self._blocks(number, 0), None)
        self.output = Output(settings.output_prefix, settings.describe(), settings.finals, overwrite)

    @property
    def position(self) -> dict[str, Any] | None:
        """Shard (`file`) and sequence (`row`) at which a stopped run resumes, and the identity of its `verdicts`."""
        return self.output.journal["state"].get("position")

    def run(self) -> dict[str, Any]:
        """Do the remaining work. Returns the manifest."""
        if self.output.finished:
            return self.output.finished
        try:
            self._check_verdicts()
            resume_audit(self.labeler, self.position)
            self.written = training_tokenizer(
                self.settings.tokenizer, self.settings.policy.marks, self.output.folder / "tokenizer"
            )
            self._open()
            with thread_pool(self.workers) as pool:
                self._write(self._reflected(pool))
            return self._finish()
        except BaseException:
            if not self.output.finished:
                self.output.close()
            raise

    def _check_verdicts(self) -> None:
        at = self.position
        if at and at["verdicts"] != self.labeler.identity(at["file"], at["row"]):
            raise UsageError(
                f"{self.settings.output_prefix}: the verdicts or hints in the annotation store are not those with "
                "which this run began; restore them, or pass --overwrite to start over"
            )

    def _open(self) -> None:
        states = self.output.journal["state"].get("shards", {})
        kind = ShardWriter if self.settings.materialize else SidecarWriter
        self.writers, policy = [], self.settings.policy
        for name, shard in zip(self.names, self.inputs, strict=True):
            writer = kind(self.output.folder, name, self._dtype(shard), states.get(name), policy.form.hints)
            writer.documents = shard.documents
            self.writers.append(writer)

    def _dtype(self, shard: IndexedShard) -> np.dtype:
        """Token type of new shards: that of the old ones, unless the tokenizer has outgrown it."""
        fits = shard.dtype == np.uint16 and self.written.vocab_size <= 1 << 16
        return np.dtype(np.uint16 if fits else np.int32)

    def _reflected(self, pool: Executor) -> Iterator[tuple[ShardBlock, ReflectedBatch]]:
        policy = self.settings.policy
        encoders = EntryEncoder(policy.form, self.written), PieceEncoder(policy, self.written)
        dtypes = [writer.dtype if self.settings.materialize else None for writer in self.writers]
        reflectors = [
            ShardReflector(self.detokenizer, self.labeler, policy, *encoders, self.settings.max_words, dtype)
            for dtype in dtypes
        ]

        def reflect(block: ShardBlock) -> ReflectedBatch:
            return reflectors[block.shard](block)

        return ordered_map(pool, reflect, self._remaining_blocks(), self.workers + 1)

    def _remaining_blocks(self) -> Iterator[ShardBlock]:
        """The blocks of all shards, from where an earlier run stopped."""
        start = self.position or {"file": 0, "row": 0}
        for number in range(start["file"], len(self.inputs)):
            yield from self._blocks(number, start["row"] if number == start["file"] else 0)

    def _blocks(self, number: int, first: int) -> Iterator[ShardBlock]:
        return read_blocks(self.inputs[number], number, self.settings.tokenizer.vocab_size, first)

    def _write(self, blocks: Iterator[tuple[ShardBlock, ReflectedBatch]]) -> None:
        progress, since_commit = self._progress(), 0
        for block, reflected in blocks:
            with self.output.writing():
                self.writers[block.shard].append(reflected)
            progress.file = block.shard
            progress.documents += len(block.ends)
            size = len(block.tokens) * self.inputs[block.shard].dtype.itemsize
            progress.bytes += size
            progress.consumed += size
            progress.tokens += len(block.tokens)
            progress.verdicts = self._verdicts()
            self.report(progress)
            since_commit += len(block.ends)
            if since_commit >= self.chunk_documents:
                verdicts = self.labeler.identity(block.shard, block.end)
                settled = settled_at(self.labeler, block.shard, block.end)
                self._commit({"file": block.shard, "row": block.end, "verdicts": verdicts, **settled})
                since_commit = 0

    def _progress(self) -> Progress:
        """The progress of earlier runs."""
        progress = Progress(len(self.inputs), sum(shard.tokens.nbytes for shard in self.inputs))
        if at := self.position:
            part = self.inputs[at["file"]]
            read = sum(shard.tokens.nbytes for shard in self.inputs[: at["file"]])
            read += int(part.lengths[: at["row"]].sum(dtype=np.int64)) * part.dtype.itemsize
            progress.file, progress.consumed, progress.resumed = at["file"], read, read
        return progress

    def _verdicts(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for writer in self.writers:
            counts.update(writer.verdict_counts()["verdicts"])
        return dict(sorted(counts.items()))

    def _commit(self, position: dict[str, Any]) -> None:
        with self.output.writing():
            states = {name: writer.commit() for name, writer in zip(self.names, self.writers, strict=True)}
            self.output.commit({"position": position, "shards": states})

    def _finish(self) -> dict[str, Any]:
        tokenizer, settled = self._training_tokenizer(), finish_audit(self.labeler)
        moves: dict[Path, Path] = {}
        described = self.settings.describe()
        with self.output.writing():
            for writer, path, shard in zip(self.writers, self.settings.shards, described["input_shards"], strict=True):
                kept = ("tokenizer", "reflection", "policy", "max_words")
                info = {name: described[name] for name in kept if name in described}
                if not self.settings.materialize:
                    info |= {"shard": shard | {"path": self.settings.place(path)}, "training_tokenizer": tokenizer}
                moves |= writer.finish(info, True)
            if self.written is not self.settings.tokenizer:
                moves[Path("tokenizer")] = Path(self.settings.tokenizer_folder.name)
            self.output.finish(moves, self._manifest(tokenizer) | settled)
        return self.output.finished or {}

    def _training_tokenizer(self) -> dict[str, Any]:
        if self.written is self.settings.tokenizer:
            return describe_tokenizer(self.written, self.written.model)
        below = self.written.model.relative_to(self.output.folder / "tokenizer")
        record = describe_tokenizer(self.written, self.settings.tokenizer_folder / below)
        prefix = self.settings.output_prefix
        return record | {"model": record["model"].replace(str(prefix.resolve()), self.settings.place(prefix), 1)}

    def _manifest(self, tokenizer: dict[str, Any]) -> dict[str, Any]:
        made = [
            {"name": name, "dtype": str(writer.dtype)} | dict(writer.counts) | writer.verdict_counts()
            for name, writer in zip(self.names, self.writers, strict=True)
        ]
        return {
            "format_version": FORMAT_VERSION,
            "shards": made if self.settings.materialize else [],
            "sidecars": [] if self.settings.materialize else made,
            "counts": sum_counts(made),
            "tokenizer": tokenizer,
            **self.settings.policy.settings(),
            "settings": self.settings.describe(),
            "software": software_versions(),
            "skipped_rows": 0,
        }
