"""Builds a set of conversations: read, filter, add reflections and safety examples, shuffle.

sft          for post-training: reflections, the paper's filters, refusals and recoveries
original     for fine-tuning: the data as it is, which makes a model forget its reflections
reflection   for fine-tuning: reflections in every example (the paper's +Reflection)
mix-sft      for fine-tuning: the data as it is, and some post-training examples (+mixSFT)
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from megatron_srp.annotation.base import Guard
from megatron_srp.errors import InputError, UsageError
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.remote.remote_file import InputFile
from megatron_srp.schema import SafetyLabel, Verdict
from megatron_srp.segmentation import DEFAULT_MAX_WORDS
from megatron_srp.sft.conversation import Conversation
from megatron_srp.sft.filters import Filters
from megatron_srp.sft.reader import ChatReader
from megatron_srp.sft.reflect import Reflector, has_reflections
from megatron_srp.sft.safety_examples import answered, recovery_examples, refusal_examples
from megatron_srp.sft.settings import KEEP_SOURCES, MIX


@dataclass(slots=True)
class SetBuilder:
    """Builds one set; everything is drawn with `seed`.

    Attributes:
        reader: of the files.
        filters: of the main input; the other inputs are taken as they are.
        guard: None if there is nothing to classify.
        form, max_words: of reflections.
        mode: one of `settings.MODES`.
        mix: examples taken from the files of `mix_input`, for mix-sft.
        harmful: files of harmful prompts, with harmful responses if recoveries are requested.
        counts, notes: what to report, filled by `build`.
    """

    reader: ChatReader
    filters: Filters
    guard: Guard | None
    form: ReflectionFormat
    max_words: int = DEFAULT_MAX_WORDS
    mode: str = "sft"
    mix: int = MIX
    mix_input: list[InputFile] = field(default_factory=list)
    harmful: list[InputFile] = field(default_factory=list)
    num_refusals: int = 0
    num_recoveries: int = 0
    forged_share: float = 0.0
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def build(self, files: list[InputFile]) -> list[Conversation]:
        """The conversations of the set, shuffled; raises InputError when none is left."""
        kept = self.filters(self.reader.read(files))
        chosen = list(self._reflected(kept) if self.mode in ("sft", "reflection") else self._plain(kept))
        self.notes += [f"--keep-source {name}: no source of that name" for name in self._unmet()]
        if not chosen:
            reasons = {k: n for k, n in (self.reader.counts + self.filters.counts).items() if k.startswith("dropped")}
            raise InputError(f"no conversation is left: {dict(reasons) or 'the input is empty'}; nothing was written")
        self.counts["conversations kept"] = len(chosen)
        chosen += self._mixed() if self.mode == "mix-sft" else []
        chosen += self._safety_examples() if self.harmful else []
        random.Random(self.seed).shuffle(chosen)
        self.counts.update(self.reader.counts + self.filters.counts)
        self.counts["conversations written"] = len(chosen)
        self.counts["responses"] = sum(t.role == "assistant" for c in chosen for t in c.turns)
        return chosen

    def _unmet(self) -> list[str]:
        """Words of `keep_sources` that fit no source; the paper's own get no note."""
        return sorted({*self.filters.keep_sources} - self.filters.found - {*KEEP_SOURCES})

    def _reflected(self, conversations: Iterable[Conversation]) -> Iterable[Conversation]:
        if self.guard is None:
            return map(self._require_reflections, conversations)
        return Reflector(self.guard, self.form, self.max_words, self.counts)(conversations)

    @staticmethod
    def _require_reflections(conversation: Conversation) -> Conversation:
        if not has_reflections(conversation):
            raise UsageError(f"{conversation.id} has no reflections yet: pass --guard NAME to label it")
        return conversation

    @staticmethod
    def _plain(conversations: Iterable[Conversation]) -> Iterable[Conversation]:
        for conversation in conversations:
            if has_reflections(conversation):
                raise UsageError(f"{conversation.id} has reflections already; these modes need plain data")
            yield conversation

    def _mixed(self) -> list[Conversation]:
        filters = Filters(self.form)  # no sampling, but no forged verdict either
        there = list(filters(self._own_reader().read(self.mix_input)))
        self.counts.update({f"--mix-input, {reason}": count for reason, count in filters.counts.items() if count})
        if len(there) < self.mix:
            self.notes.append(f"--mix {self.mix}: --mix-input has only {len(there)} conversations")
        chosen = random.Random(f"mix:{self.seed}").sample(there, min(self.mix, len(there)))
        mixed = list(self._reflected(chosen))
        self.counts["conversations mixed in"] = len(mixed)
        return mixed

    def _safety_examples(self) -> list[Conversation]:
        harmful = [c for c in self._own_reader(prompts=True).read(self.harmful) if not has_reflections(c)]
        harmful = [c for c in harmful if any(turn.role == "user" for turn in c.turns)]
        refusals = refusal_examples(harmful, self.num_refusals, self.form, self.seed)
        recoveries = []
        if self.num_recoveries and self.guard is not None:
            labelled, share = self._labelled(harmful), self.forged_share
            recoveries = recovery_examples(labelled, self.num_recoveries, self.form, self.seed, share)
        if self.forged_share:
            self.counts["safety examples, recoveries from a forged reflection"] = sum(
                example.source == "forged" for example in recoveries
            )
        for name, made, wanted in (
            ("refusals", len(refusals), self.num_refusals),
            ("recoveries", len(recoveries), self.num_recoveries),
        ):
            self.counts[f"safety examples, {name}"] = made
            if made < wanted:
                self.notes.append(f"--num-{name} {wanted}: --harmful has enough for {made} only")
        return refusals + recoveries

    def _labelled(self, harmful: list[Conversation]) -> list[tuple[Conversation, SafetyLabel]]:
        """Those with a response, and the label of its beginning: with the guard's categories, but
        always Unsafe, since the user says so."""
        assert self.guard is not None
        with_response = answered(harmful)
        labels = Reflector(self.guard, self.form).label([text for _, text in with_response], "response")
        unsafe = [
            label if label and label.verdict is Verdict.UNSAFE else SafetyLabel(Verdict.UNSAFE) for label in labels
        ]
        return [(c, label) for (c, _), label in zip(with_response, unsafe, strict=True)]

    def _own_reader(self, prompts: bool = False) -> ChatReader:
        """For files other than the input, whose format is detected and whose rows are not counted."""
        return ChatReader(self.form, None, self.reader.skip_errors, prompts)
