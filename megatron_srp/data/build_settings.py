"""The settings that determine the shards made from texts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_srp.annotation.base import Guard
from megatron_srp.data.audited_labels import guard_labeler
from megatron_srp.data.policies.policy import Policy, refuse_in_shards
from megatron_srp.data.reflect import GuardLabeler, Labeler
from megatron_srp.data.shards.indexed_shard import bin_path, idx_path
from megatron_srp.data.shards.manifest import finished_output
from megatron_srp.data.shards.sidecar import sidecar_path
from megatron_srp.data.training_tokenizer import refuse_forgeable
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words
from megatron_srp.tokenization import TextTokenizer


@dataclass(slots=True)
class BuildSettings:
    """The settings that determine the result of a builder.

    Attributes:
        prefix: of the files written: PREFIX_KEY_document.{bin,idx,srp} for each key, and PREFIX.srp.json.
        tokenizer: the base tokenizer.
        guard: a classifier, a `Labeler`, or None for plain shards.
        policy: what becomes of segments, and how labels are written.
        max_words: maximum words per segment.
        append_eod: whether documents end with the tokenizer's end-of-document id.
        keys: names of the shards.
        more: other settings that determine the result, to be recorded and compared on resume.
        labeler: labels the segments; None for plain shards.

    Raises:
        UsageError: where a page could write reserved tokens, the tokenizer has no end-of-text token, or the policy
            needs what a shard cannot hold.
    """

    prefix: Path
    tokenizer: TextTokenizer
    guard: Guard | Labeler | None
    policy: Policy = field(default_factory=Policy)
    max_words: int = DEFAULT_MAX_WORDS
    append_eod: bool = True
    keys: list[str] = field(default_factory=lambda: ["text"])
    more: dict[str, Any] = field(default_factory=dict)
    labeler: Labeler | None = field(init=False)

    def __post_init__(self) -> None:
        if self.policy.marks:  # a tokenizer may have them already, and a page must not forge them
            self.tokenizer = self.tokenizer.reading_as_text(self.policy.marks)
        self.labeler = guard_labeler(self.guard) if isinstance(self.guard, Guard) else self.guard
        check_max_words(self.max_words)
        if self.append_eod or self.labeler:
            self.tokenizer.require_eos()
            refuse_forgeable(self.tokenizer, self.policy.marks if self.labeler else [])
        if self.labeler:
            refuse_in_shards(self.policy)

    def describe(self) -> dict[str, Any]:
        """The settings as JSON, to be recorded and compared on resume."""
        reflection = {**self.policy.settings(), "max_words": self.max_words} if self.labeler else {}
        return {
            "tokenizer": self.tokenizer.identity,
            "append_eod": self.append_eod,
            "keys": self.keys,
            **reflection,
            **self.more,
            **(self.labeler.settings if isinstance(self.labeler, GuardLabeler) else {}),
        }

    def name(self, key: str) -> str:
        """Name of the shard of `key`."""
        return f"{self.prefix.name}_{key}_document"

    @property
    def finals(self) -> list[Path]:
        """Paths of all output files except the manifest."""
        shards = [self.prefix.with_name(self.name(key)) for key in self.keys]
        return [path(shard) for shard in shards for path in (bin_path, idx_path, sidecar_path)]

    @property
    def tokenizer_folder(self) -> Path:
        """Folder name of the tokenizer with added tokens, if the form adds any."""
        return self.prefix.with_name(f"{self.prefix.name}_tokenizer")

    def finished(self) -> dict[str, Any] | None:
        """The manifest of an existing output, if it was made with the same settings."""
        return finished_output(self.prefix, self.describe())
