"""PREFIX_sft.bin, .idx and .mask: conversations as a Megatron shard, and for each token whether it is learned.

PREFIX_sft.mask is uint8, one byte per token of the .bin, in the same order: 1 where the token counts as a label.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from megatron_srp.data.shards.indexed_shard import bin_path, idx_path, token_dtype, write_index
from megatron_srp.data.shards.manifest import FORMAT_VERSION, software_versions, sum_counts
from megatron_srp.data.shards.output import Output
from megatron_srp.data.training_tokenizer import describe_tokenizer
from megatron_srp.errors import InputError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import Conversation
from megatron_srp.sft.encode import ConversationEncoder
from megatron_srp.sft.history import examples
from megatron_srp.sft.shard import mask_path
from megatron_srp.sft.template import ChatTemplate


class SftShardWriter:
    """Writes one shard, and PREFIX.srp.json last.

    Args:
        output_prefix: PREFIX.
        template, form: how conversations are written.
        seq_length: the training's sequence length; a longer example is dropped and counted.
        settings: everything else that determines the result.
        overwrite: replace what is there.

    Attributes:
        prefix: of the shard's files, PREFIX_sft.
        finished: the manifest, when a run that was killed had only its finish left to do.
        counts: tokens, and what was dropped.

    Raises:
        UsageError, OutputError: as `Output` does.
    """

    def __init__(
        self,
        output_prefix: Path,
        template: ChatTemplate,
        form: ReflectionFormat,
        seq_length: int,
        settings: dict[str, Any],
        overwrite: bool = False,
    ) -> None:
        self._encoder, self._template, self._form = ConversationEncoder(template, form), template, form
        self._seq_length = seq_length
        self._dtype = token_dtype(template.tokenizer.vocab_size)
        self.prefix = output_prefix.with_name(f"{output_prefix.name}_sft")
        self.settings = settings | {
            "chat_template": template.name,
            "history": "plain",  # of earlier answers; in older shards they have their reflections
            "seq_length": seq_length,
            "tokenizer": template.tokenizer.identity,
        }
        self.counts: Counter[str] = Counter()
        self._lengths: list[int] = []
        self._output = Output(output_prefix, self.settings, [path(self.prefix) for path in _FILES], overwrite)
        self.finished = self._output.finished

    def write(self, conversations: Iterable[Conversation]) -> None:
        """Write the examples of all conversations; raises InputError when none of them fits."""
        folder = self._output.folder
        with self._output.writing(), (folder / "bin").open("wb") as ids, (folder / "mask").open("wb") as mask:
            for example in chain.from_iterable(map(examples, conversations)):
                encoded = self._encoder(example)
                # The first token is never a label, and the last never an input.
                if len(encoded.ids) > self._seq_length + 1:
                    self.counts[f"dropped: longer than {self._seq_length:,} tokens"] += 1
                    continue
                ids.write(encoded.ids.astype(self._dtype).data)
                mask.write(encoded.mask.data)
                self._lengths.append(len(encoded.ids))
                self.counts["tokens"] += len(encoded.ids)
                self.counts["tokens learned"] += int(encoded.mask.sum())
        if not self._lengths:
            raise InputError(f"every conversation is longer than --seq-length {self._seq_length}; nothing was written")

    def finish(self, counts: dict[str, int]) -> dict[str, Any]:
        """Move the files to their names and write the manifest, which is returned.

        Args:
            counts: everything that was counted, for the manifest.
        """
        with self._output.writing():
            with (self._output.folder / "idx").open("wb") as file:
                write_index(file, np.array(self._lengths, np.int32), self._dtype)
            moves = {Path(path("x").suffix[1:]): Path(path(self.prefix).name) for path in _FILES}
            return self._output.finish(moves, self._manifest(counts))

    def _manifest(self, counts: dict[str, int]) -> dict[str, Any]:
        sizes = {
            "documents": len(self._lengths),
            "tokens": self.counts["tokens"],
            "plain_tokens": self.counts["tokens"],
        }
        shard = {
            "name": self.prefix.name,
            "key": "sft",
            "dtype": str(self._dtype),
            **sizes,
            "verdicts": {},
            "categories": {},
        }
        return {
            "format_version": FORMAT_VERSION,
            "shards": [shard],
            "counts": sum_counts([shard]),
            "tokenizer": describe_tokenizer(self._template.tokenizer, self._template.tokenizer.model),
            "reflection": None,  # describes a sidecar, and this shard has none
            "sft": {
                "mask": mask_path(self.prefix).name,
                "reflection": self._form.describe(),
                "chat_template": self._template.name,
                "tokens_learned": self.counts["tokens learned"],
                "counts": counts,
            },
            "settings": self.settings,
            "software": software_versions(),
        }

    def close(self) -> None:
        """Release the lock; the next run restarts what was not finished."""
        self._output.close()


_FILES = (bin_path, idx_path, mask_path)
