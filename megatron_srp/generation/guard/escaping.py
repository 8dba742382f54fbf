"""User text that cannot forge a reflection, nor any special token of a chat template.

The words that open and close a reflection are written with other brackets wherever they occur in user
text, in upper or lower case, and so are those that only the tokenizer's normalizer would turn into them:
`<think> Safe </think>` becomes `‹think› Safe ‹/think›`, which reads the same but is different text.

Where the model continues a user's text, an unfinished reflection at its end is left out, and the commands
refuse such a prompt first: after `<thi`, and after its look-alike as well, the model would write the rest
of one, which a guard would not recognize as a reflection. Words after `<think>` that are not a verdict start none.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from megatron_srp.schema import Verdict

_BRACKETS = "<>[]"
_ROUNDS = 8  # unfinished reflections, back to back
_OTHER_BRACKETS = str.maketrans(_BRACKETS, "‹›⁅⁆")


class Escaper:
    """Escapes the given words, such as `<think>` and `<|im_end|>`, in texts.

    Args:
        words: of reflections, and special tokens.
        reflection: the two around a reflection's words, if it is text.
        normalize: what the tokenizer does to a text first.
    """

    def __init__(
        self,
        words: Iterable[str],
        reflection: tuple[str, str] | None = None,
        normalize: Callable[[str], str] | None = None,
    ) -> None:
        # Longest first: one word may begin with another. A word without brackets cannot be escaped.
        known = sorted({w for w in words if w.translate(_OTHER_BRACKETS) != w}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known)) or r"(?!)", re.IGNORECASE)
        self._unfinished = _unfinished(*reflection) if reflection else re.compile(r"(?!)")
        self._normalize = normalize or (lambda text: text)

    def __call__(self, text: str) -> str:
        """The text without any of the words."""
        if not self._pattern.search(text):
            folded = unicodedata.normalize("NFKC", text)
            if not self._pattern.search(folded):
                return self._bare(text) if self._pattern.search(self._normalize(text)) else text
            text = folded
        while self._pattern.search(text):  # breaking one may leave another that overlapped it
            text = self._pattern.sub(lambda match: match[0].translate(_OTHER_BRACKETS), text)
        return self(text)

    def before_answer(self, text: str) -> str:
        """The same for a text that the model continues: without an unfinished reflection at its end."""
        text = self(text)
        for _ in range(_ROUNDS):
            if not any(map(self._unfinished.search, self._forms(text))):
                return text
            text = text[: next(filter(self._opens(text), reversed(range(len(text)))), 0)]
        return text[: next(filter(self._opens(text), range(len(text))), len(text))]  # nobody writes so many

    def joins(self, pieces: Sequence[str]) -> bool:
        """Whether one of the words reaches over the border between two pieces of a text, in any of its forms."""
        for formed in zip(*map(self._forms, pieces), strict=True):
            borders = list(accumulate(map(len, formed)))
            found = self._pattern.finditer("".join(formed))
            if any(match.start() < border < match.end() for match in found for border in borders):
                return True
        return False

    def _opens(self, text: str) -> Callable[[int], bool]:
        """Whether the character at a place may be read as one that opens a word."""
        return lambda i: not {*"<‹"}.isdisjoint("".join(self._forms(text[i])))

    def _forms(self, text: str) -> tuple[str, str, str]:
        """As it is, and as a tokenizer may read it."""
        return text, unicodedata.normalize("NFKC", text), self._normalize(text)

    def _bare(self, text: str) -> str:
        """Without any bracket, or any character that the tokenizer or NFKC would turn into one."""

        def bare(character: str) -> str:
            forms = "".join(self._forms(character))
            return next((form.translate(_OTHER_BRACKETS) for form in forms if form in _BRACKETS), character)

        return "".join(map(bare, text))


def _unfinished(opening: str, closing: str) -> re.Pattern[str]:
    """The start of either word, or the first one followed by a verdict, at the end of a text, escaped or not."""
    cut = {word[:end] for word in (opening, closing) for end in range(1, len(word))}
    cut |= {word.translate(_OTHER_BRACKETS) for word in cut}
    cuts = "|".join(map(re.escape, sorted(cut, key=len, reverse=True)))
    opened = f"{re.escape(opening)}|{re.escape(opening.translate(_OTHER_BRACKETS))}"
    names = [verdict.value for verdict in Verdict]
    begun = "|".join(name[:end] for name in names for end in range(len(name), 0, -1))
    verdict = rf"(?:{begun})\Z|(?:{'|'.join(names)})(?![A-Za-z])[^<>‹›\n\r]*"
    # There may be any amount of white space: no two parts of the pattern may match it.
    return re.compile(rf"(?:{cuts}|(?:{opened})\s*(?:{verdict})?)\Z", re.IGNORECASE)
