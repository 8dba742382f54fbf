"""Settings of a post-training set. Cheap to import: the command line reads its defaults from here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words

if TYPE_CHECKING:
    from megatron_srp.annotation.base import GuardOptions

MODES = ("sft", "original", "reflection", "mix-sft")
MIX = 200  # from the paper, like the other numbers here unless they say otherwise
NUM_REFUSALS = 200
NUM_RECOVERIES = 200  # ours: the paper does not state one
FORGED_SHARE = 0.0  # the paper has none
MAX_CHARS = 2048
KEEP_SOURCES = {"wildjailbreak": 0.2, "wildguardmix": 0.2}
KEEP_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class SftSettings:
    """A set of conversations and its output; the fields' defaults are those of `srp sft`.

    Attributes:
        inputs: files or patterns of files.
        format: of the files, or None to detect it from each file's first row.
        skip_errors: skip rows that are not a conversation, rather than stop.
        mode: one of `MODES`, see `build`.
        mix, mix_inputs: for mix-sft, how many examples are mixed in, and from which files.
        harmful: files of harmful prompts, for refusals and recoveries.
        forged_share: of the recoveries, how many begin with a forged Safe reflection.
        max_chars: maximum characters of a conversation, 0 for no limit.
            keep_sources, keep_share: the share to keep of sources whose name contains a word, and of all others.
            None for these filters means the paper's value in mode sft, and no filter in other modes.
            guard, guard_options: the guard that judges; None if there is nothing to judge.
        out: a JSONL file. Or output_prefix: a Megatron shard, for which the tokenizer is needed.
        eod_token: follows unsafe verdicts, None for the tokenizer's eos; the same as in pretraining.
        seq_length: tokens of a training sequence; longer conversations are dropped.

    Raises:
        UsageError: for values that are not allowed or do not go together, by the flags' names.
    """

    inputs: Sequence[str]
    format: str | None = None
    skip_errors: bool = False
    mode: str = "sft"
    mix: int = MIX
    mix_inputs: Sequence[str] = ()
    harmful: Sequence[str] = ()
    num_refusals: int = NUM_REFUSALS
    num_recoveries: int = NUM_RECOVERIES
    forged_share: float = FORGED_SHARE
    seed: int = 0
    max_chars: int | None = None
    keep_sources: Mapping[str, float] | None = None
    keep_share: float | None = None
    max_words: int = DEFAULT_MAX_WORDS
    form: ReflectionFormat = field(default_factory=ReflectionFormat)
    guard: str | None = None
    guard_options: "GuardOptions | None" = None
    out: Path | None = None
    output_prefix: Path | None = None
    tokenizer_type: str = "HuggingFaceTokenizer"
    tokenizer_model: str | None = None
    eod_token: str | None = None
    chat_template: str | None = None
    seq_length: int = 2048
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_max_words(self.max_words)
        paper = self.mode == "sft"
        for name, value in (
            ("max_chars", MAX_CHARS if paper else 0),
            ("keep_sources", KEEP_SOURCES if paper else {}),
            ("keep_share", KEEP_SHARE if paper else 1.0),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check_share("--keep-share", self.keep_share or 0.0)
        check_share("--forged-share", self.forged_share)
        for name, least in (
            ("max_chars", 0),
            ("mix", 0),
            ("num_refusals", 0),
            ("num_recoveries", 0),
            ("seq_length", 2),
        ):
            if getattr(self, name) < least:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} {getattr(self, name)}: pass a number of at least {least}")
        self._check_together()

    def _check_together(self) -> None:
        if (self.out is None) == (self.output_prefix is None):
            raise UsageError("pass one of --out FILE.jsonl and --output-prefix PREFIX")
        if self.output_prefix and not self.tokenizer_model:
            raise UsageError("--output-prefix writes tokens: pass --tokenizer-model too")
        if (self.mode == "mix-sft") != bool(self.mix_inputs):
            raise UsageError("--mode mix-sft and --mix-input FILE go together")
        if self.guard is None and self.mode in ("sft", "reflection") and self.format != "srp":
            raise UsageError(
                "pass --guard NAME to label the data; or --format srp for files that have reflections already"
            )
        if self.harmful and self.mode != "sft":
            raise UsageError("--harmful is for --mode sft only: a fine-tuning set contains only the user's data")
        if self.forged_share and not (self.harmful and self.num_recoveries):
            raise UsageError(f"--forged-share {self.forged_share:g} is of recoveries: pass --harmful FILE too")
        if self.harmful and self.num_recoveries and self.guard is None:
            raise UsageError("--harmful with recoveries needs --guard NAME; or pass --num-recoveries 0")


def parse_keep_sources(given: Sequence[str]) -> dict[str, float]:
    """`NAME=P` as shares by lower-case name; raises UsageError."""
    shares = {}
    for text in given:
        name, _, share = text.rpartition("=")
        try:
            shares[name.strip().lower()] = check_share("--keep-source", float(share))
        except ValueError:
            raise UsageError(f"--keep-source {text!r}: pass NAME=P, such as wildjailbreak=0.2") from None
        if not name.strip():
            raise UsageError(f"--keep-source {text!r}: pass NAME=P, such as wildjailbreak=0.2")
    return shares


def check_share(flag: str, share: float) -> float:
    """The share, if it is from 0 to 1; raises UsageError."""
    if not 0 <= share <= 1:
        raise UsageError(f"{flag} {share:g}: pass a share from 0 to 1")
    return share
