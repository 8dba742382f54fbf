"""Finds reflections in text that arrives piece by piece.

It recognizes more reflections than training writes, and doubt counts against the text:

- exactly what `ReflectionFormat` writes is a reflection;
- whatever else opens like one (other case or spacing in `<think>` or after it, `<think` without its bracket, other
  words, never closed) is an unsafe one, with the unsafe verdict that it begins with or else Unsafe. It ends at
  `</think>`, or before a line break, `<` or `>`, or after `LONGEST` characters;
- `</think>` that closes nothing ends one whose opening is unrecognizable, so it is an unsafe one as well;
- what the end of the answer cuts off while it could still become a reflection is dropped, pieces of `<think>`
  included. An unsafe verdict that is complete by then counts.

A space before a reflection belongs to it; at the very beginning of an answer one after it does too.
At most about `LONGEST` characters are held back, and reread, for each piece.
"""

import re
from collections.abc import Iterator

from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict

LONGEST = 300  # characters after <think>
_HEAD = re.compile(r"[ \t\r\n]{0,8}([A-Za-z]*)")
_VERDICTS = {verdict.lower(): verdict for verdict in Verdict}
_SPACE = r" \t\r\n\u00a0"
_GAP = rf"[{_SPACE}]{{0,8}}"
_RESERVED = re.compile(r"[<>\n\r]")


class _Wait(Exception):
    """More text is needed to tell."""


class ReflectionScanner:
    """Splits a text into what is shown and the labels of reflections.

    Args:
        form: how reflections are written. With special tokens its `open` and `close` are the characters
            that represent them, and no spaces belong to a reflection.

    Attributes:
        held: text whose meaning is not certain yet.
        taken: characters before those.
    """

    def __init__(self, form: ReflectionFormat) -> None:
        self._form = form
        self._lead = "" if form.special_tokens else " "
        self._opening, self._close, self._part = _patterns(form)
        self._stop = re.compile(rf"[<>\n\r{re.escape(form.open[0] + form.close[0])}]")
        self.held = ""
        self.taken = 0
        self._any_text = False
        self._after_first = False

    @property
    def inside(self) -> bool:
        """Whether the text so far ends within what may become a reflection, its opening word included."""
        return bool(self.held.strip())

    @property
    def opened(self) -> bool:
        """Whether the text so far ends with the opening of a reflection."""
        return self._begun == self._form.open

    @property
    def reading(self) -> bool:
        """Whether the text so far ends within a reflection whose opening is complete."""
        return self._begun.startswith(self._form.open)

    @property
    def _begun(self) -> str:
        return self.held.removeprefix(self._lead)

    def feed(self, text: str, ended: bool = False) -> Iterator[str | SafetyLabel]:
        """Text to show and labels, in order, as far as they are certain.

        Args:
            ended: whether this is the last piece.
        """
        self.held += text
        while self.held:
            try:
                length, found = self._next(ended)
            except _Wait:
                return
            taken, self.held = self.held[:length], self.held[length:]
            self.taken += length
            if found is None:
                yield from self._text(taken)
            elif found:
                self._after_first = not self._any_text
                yield from found

    def _text(self, text: str) -> Iterator[str]:
        if self._after_first and self._lead:
            text = text.removeprefix(self._lead)
        self._after_first = False
        if text:
            self._any_text = True
            yield text

    def _next(self, ended: bool) -> tuple[int, tuple[SafetyLabel, ...] | None]:
        """How many characters of those held come next, and None if they are text, else their label, if any."""
        held = self.held
        start = held.find(self._form.open[0])
        if start < 0:
            if self._lead and held.endswith(self._lead) and not ended:
                if len(held) > 1:
                    return len(held) - 1, None
                raise _Wait
            return len(held), None
        lead = start - 1 if self._lead and held[start - 1 : start] == self._lead else start
        if lead:
            return lead, None
        opening = self._opening.match(held, start)
        if opening:
            length, found = self._read(held[opening.end() :], opening[0] == self._form.open, ended)
            return opening.end() + length, found
        if self._close.match(held, start):
            return start + len(self._form.close), (SafetyLabel(Verdict.UNSAFE),)
        if not self._part.fullmatch(held, start):
            return start + 1, None
        if not ended:
            raise _Wait
        return len(held), ()

    def _read(self, inner: str, exact: bool, ended: bool) -> tuple[int, tuple[SafetyLabel, ...]]:
        """Length and label of the reflection that `inner`, the text after an opening, begins with.

        Args:
            exact: whether it is opened as training opens them.
        """
        head = _HEAD.match(inner)
        assert head
        word, cut = head[1].lower(), head.end() == len(inner)
        verdict = _VERDICTS.get(word)
        if cut and any(name.startswith(word) for name in _VERDICTS):
            if not ended:
                raise _Wait
            return len(inner), self._flaw(verdict, "") if word in _VERDICTS and verdict is not Verdict.SAFE else ()
        end, closed = self._end(inner, head.end(), ended)
        exact = exact and not (verdict is Verdict.SAFE and inner.startswith(":", head.end()))  # Safe has no categories
        label = self._form.parse(self._form.open + inner[:closed]) if exact else None
        cut = ended and closed == len(inner) and end < LONGEST and not inner.endswith(self._form.close)
        if label is None and verdict is Verdict.SAFE and cut:
            return closed, ()
        return closed, (label,) if label else self._flaw(verdict, inner[head.end() : end])

    def _end(self, inner: str, start: int, ended: bool) -> tuple[int, int]:
        """Where the words of a reflection end, and where the reflection itself does."""
        stop, close = self._stop.search(inner, start, LONGEST), self._form.close
        if stop is None:
            if len(inner) < LONGEST and not ended:
                raise _Wait
            end = min(len(inner), LONGEST)
            return end, end
        end = stop.start()
        if inner.startswith(close, end):
            return end, end + len(close)
        if close.startswith(inner[end:]):
            if not ended:
                raise _Wait
            return end, len(inner)
        return end, end

    @staticmethod
    def _flaw(verdict: Verdict | None, words: str) -> tuple[SafetyLabel, ...]:
        """The label of a flawed reflection that begins with that verdict, if with any."""
        if verdict is None or verdict is Verdict.SAFE:
            return (SafetyLabel(Verdict.UNSAFE),)
        names = (_RESERVED.sub("", name).strip() for name in words.strip(" :\t").split(","))
        return (SafetyLabel(verdict, tuple(name for name in names if name)),)


def _patterns(form: ReflectionFormat) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """What opens a reflection, in any case and with gaps at the brackets; what closes one; and what may become either.

    Among special tokens only the token itself opens a reflection, and one that closes nothing is not text.
    """
    never = re.compile(r"(?!)")
    if form.special_tokens:
        return re.compile(re.escape(form.open)), never, never
    first, *word, last = (re.escape(character) for character in form.open)
    whole = f"{first}{_GAP}{''.join(word)}{_GAP}{last}"
    # Without its last bracket, and no longer word, such as <thinking>.
    broken = rf"{first}{''.join(word)}(?=[^\w{_SPACE}{last}]|[{_SPACE}]{{1,8}}[^{_SPACE}{last}]|[{_SPACE}]{{9}})"
    part = f"{first}{_GAP}{_begun(word, _GAP)}|{_begun(list(map(re.escape, form.close)))}"
    patterns = (f"{whole}|{broken}", re.escape(form.close), part)
    opening, close, part_of = (re.compile(pattern, re.IGNORECASE) for pattern in patterns)
    return opening, close, part_of


def _begun(characters: list[str], end: str = "") -> str:
    """A pattern of any beginning of a word, with `end` after its last character."""
    pattern = end
    for character in reversed(characters):
        pattern = f"(?:{character}{pattern})?"
    return pattern
