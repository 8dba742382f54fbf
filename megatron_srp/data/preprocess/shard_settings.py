"""The settings of a run over existing shards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_srp.data.policies.policy import Policy
from megatron_srp.data.preprocess.shard_inputs import output_names
from megatron_srp.data.shards.indexed_shard import bin_path, idx_path
from megatron_srp.data.shards.sidecar import describe_shard, sidecar_path
from megatron_srp.tokenization import TextTokenizer


@dataclass(frozen=True, slots=True)
class ShardJobSettings:
    """The settings that determine the result of a `ShardJob`.

    Attributes:
        shards: prefixes of the plain shards.
        output_prefix: of the files written: PREFIX_SHARD.srp for each shard, and PREFIX.srp.json.
        tokenizer: the shards'.
        policy: what becomes of the segments.
        max_words: maximum words of each.
        judge: the source of the labels, for the manifest.
        materialize: write new shards with reflections rather than sidecars.
        urls: of those shards, and of that prefix, which are the copies of what is on S3.
    """

    shards: list[Path]
    output_prefix: Path
    tokenizer: TextTokenizer
    policy: Policy
    max_words: int
    judge: dict[str, Any]
    materialize: bool = False
    urls: Mapping[Path, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the sidecars or shards to make; raises UsageError where they would replace the input's."""
        return output_names(self.output_prefix, self.shards, self.materialize)

    @property
    def finals(self) -> list[Path]:
        """Paths of all output files except the manifest."""
        files = (bin_path, idx_path, sidecar_path) if self.materialize else (sidecar_path,)
        return [path(self.output_prefix.with_name(name)) for name in self.names for path in files]

    @property
    def tokenizer_folder(self) -> Path:
        """Folder name of the tokenizer with added tokens, if the form adds any."""
        return self.output_prefix.with_name(f"{self.output_prefix.name}_tokenizer")

    def place(self, path: Path) -> str:
        """Where one of the shards, or the prefix, is when training reads it."""
        return self.urls.get(path) or str(path.resolve())

    def describe(self) -> dict[str, Any]:
        """The settings as JSON, to be recorded and compared on resume."""
        return {
            "tokenizer": self.tokenizer.identity,
            **self.policy.settings(),
            "max_words": self.max_words,
            "input_shards": [describe_shard(shard) for shard in self.shards],
            "materialize": self.materialize,
            **self.judge,
        }
