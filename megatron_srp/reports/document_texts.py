"""Documents of a shard as a person reads them: their text, segment by segment, with the verdict on each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from megatron_srp.data.reflection_table import Entry
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.strip import plain_tokens
from megatron_srp.schema import Verdict

SHOWN_TOKENS = 2000  # of one document, so that a page stays readable
_AHEAD = 2  # segments shown before the first that is not Safe, where a document is too long


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment as it is shown: its text, how many of its tokens are not shown, and its reflection."""

    text: str
    left_out: int
    reflection: str
    verdict: str
    stop: bool


@dataclass(frozen=True, slots=True)
class ShownDocument:
    """A document as it is shown.

    Attributes:
        number: of the sequence in the shard.
        tokens: its plain tokens; before, after: how many are not shown at its ends.
        verdicts, categories: of all its segments, shown or not.
        tail: text after the last reflection.
    """

    number: int
    tokens: int
    segments: int
    verdicts: list[str]
    categories: list[str]
    pieces: list[Piece] = field(default_factory=list)
    tail: str = ""
    before: int = 0
    after: int = 0


class DocumentReader:
    """Reads documents of a shard, in any order.

    Args:
        decode: ids to text.
        eos_id: shown as the end of the text rather than decoded.

    Raises:
        InputError: when the shard does not contain the reflections that the sidecar lists.
    """

    def __init__(
        self, shard: IndexedShard, sidecar: ReflectionSidecar, decode: Callable[[list[int]], str], eos_id: int | None
    ) -> None:
        self._shard, self._sidecar, self._eos_id = shard, sidecar, eos_id
        self._decode = lru_cache(maxsize=4096)(lambda ids: visible(decode([i for i in ids if i != eos_id])))

    def read(self, number: int, first: int | None = None) -> ShownDocument:
        """Document `number`, from segment `first` on; by default from its beginning, or where that would
        not show it, from shortly before the first segment that is not Safe."""
        own = self._sidecar.reflections(number, number + 1)
        cuts, entries = own.cuts.tolist(), [self._sidecar.table.entries[i] for i in own.entries]
        reflections = np.split(own.ids(), np.cumsum(own.sizes())[:-1])
        tokens = self._plain(number)
        unsafe = next((i for i, entry in enumerate(entries) if entry.label.verdict is not Verdict.SAFE), None)
        if first is None:
            hidden = unsafe is not None and cuts[unsafe] > SHOWN_TOKENS
            first = max((unsafe or 0) - _AHEAD, 0) if hidden else 0
        at = begin = cuts[first - 1] if first else 0
        pieces = []
        for cut, entry, ids in zip(cuts[first:], entries[first:], reflections[first : len(cuts)], strict=True):
            if at - begin >= SHOWN_TOKENS:
                break
            text, left_out = self._text(tokens[at:cut], SHOWN_TOKENS - (at - begin))
            reflection = self._shown(entry, ids)
            pieces.append(Piece(text, left_out, reflection, str(entry.label.verdict), entry.stop))
            at = cut
        tail, after = "", len(tokens) - at
        if first + len(pieces) == len(cuts):
            tail, after = self._text(tokens[at:], SHOWN_TOKENS)
        labels = [entry.label for entry in entries]
        return ShownDocument(
            number,
            len(tokens),
            len(cuts),
            [str(verdict) for verdict in Verdict if any(label.verdict is verdict for label in labels)],
            sorted({category for label in labels for category in label.categories}),
            pieces,
            tail,
            begin,
            after,
        )

    def _shown(self, entry: Entry, ids: np.ndarray) -> str:
        """What the policy writes around a segment, and what it does with the segment."""
        before, after = (self._decode(tuple(part.tolist())).strip() for part in np.split(ids, [len(entry.before)]))
        done = {"keep": "", "drop": "[left out]", "mask": "[not learned]"}[entry.text]
        if before or done:
            return " ".join(filter(None, [before, done or "[text]", after]))
        return after

    def _plain(self, number: int) -> np.ndarray:
        if not self._sidecar.materialized:
            return self._shard[number]
        return plain_tokens(self._shard, self._sidecar, number, number + 1)[0]

    def _text(self, tokens: np.ndarray, most: int) -> tuple[str, int]:
        return self._decode(tuple(tokens[:most].tolist())), max(len(tokens) - most, 0)


_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}
# Characters that change how the text around them is shown, and so could hide what it says.
_HIDING = [0x061C, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF]
_HIDING += [*range(0x80, 0xA0), *range(0xE0000, 0xE0080)]
_VISIBLE = _PICTURES | {code: f"⟨U+{code:04X}⟩" for code in _HIDING}


def visible(text: str) -> str:
    """The text with control characters and marks of direction made visible: it can neither break a page
    nor rearrange it."""
    return text.translate(_VISIBLE)
