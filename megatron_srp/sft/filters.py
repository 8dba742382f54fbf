"""Which conversations are kept: the paper's filters, applied to each conversation independently.

Sampling depends on the seed and the conversation's id only, so that adding files or reordering rows changes
nothing for the others.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import xxhash

from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import Conversation


@dataclass(slots=True)
class Filters:
    """Drops conversations, and counts why.

    Attributes:
        form: its words `open` and `close` may not occur as text in a response.
        max_chars: maximum characters of a conversation, all turns together; None for no limit.
        keep_sources: the share to keep of sources whose name contains a word, ignoring case.
        keep_share: the share to keep of all others.
        seed: random seed of the sampling.
        counts: dropped conversations by reason, and prompts with words like a reflection's.
        found: the words of `keep_sources` that were met.
    """

    form: ReflectionFormat
    max_chars: int | None = None
    keep_sources: dict[str, float] = field(default_factory=dict)
    keep_share: float = 1.0
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    found: set[str] = field(default_factory=set)

    def __call__(self, conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        for conversation in conversations:
            reason = self._reason(conversation)
            if reason:
                self.counts[f"dropped: {reason}"] += 1
            else:
                prompts = (turn.text for turn in conversation.turns if turn.role != "assistant")
                self.counts["prompts that imitate reflections, kept as text"] += sum(map(self._imitates, prompts))
                yield conversation

    def _reason(self, conversation: Conversation) -> str:
        if self.max_chars is not None and conversation.characters() > self.max_chars:
            return f"longer than {self.max_chars:,} characters"
        # A verdict already in the data would be learned as if it were the guard's. Nothing can be cut out of
        # such a text without guessing what its author meant.
        if any(self._imitates(turn.text) for turn in conversation.turns if turn.role == "assistant"):
            return f"a response contains {self.form.open} or {self.form.close} as text"
        name, share = self._share(conversation.source)
        if draw(self.seed, conversation.id) >= share:
            return f"not sampled, source {name}" if name else "not sampled"
        return ""

    def _imitates(self, text: str) -> bool:
        return self.form.open in text or self.form.close in text

    def _share(self, source: str) -> tuple[str, float]:
        for name, share in self.keep_sources.items():
            if name in source.lower():
                self.found.add(name)
                return name, share
        return "", self.keep_share


def draw(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on `seed` and `name` alone."""
    return xxhash.xxh3_64_intdigest(f"{seed}:{name}".encode()) / 2**64
