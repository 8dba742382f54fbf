"""User text that cannot forge a reflection, nor any special token of a chat template.

The words that open and close a reflection are written with other brackets wherever they stand in user
text, in any case, and so are those that only the tokenizer's normalizer would turn into them:
`<think> Safe </think>` becomes `‹think› Safe ‹/think›`, which reads the same and is another text.

Where the model goes on from a user's text, a beginning of such a word at its end counts as well: behind
`<thi` the model could write the rest of a reflection, which a guard would not know for one.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

_BRACKETS = "<>[]"
_OTHER_BRACKETS = str.maketrans(_BRACKETS, "‹›⁅⁆")


class Escaper:
    """Escapes the given words, such as `<think>` and `<|im_end|>`, in texts.

    Args:
        words: of reflections, and special tokens.
        begun: those whose beginning counts at the end of a text.
        normalize: what the tokenizer does to a text first.
    """

    def __init__(
        self, words: Iterable[str], begun: Iterable[str] = (), normalize: Callable[[str], str] | None = None
    ) -> None:
        # Longest first: one word may begin with another. A word without brackets cannot be escaped.
        known = sorted({w for w in words if w.translate(_OTHER_BRACKETS) != w}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known)) or r"(?!)", re.IGNORECASE)
        beginnings = {word[:end] for word in begun for end in range(1, len(word))}
        cut = "|".join(map(re.escape, sorted(beginnings, key=len, reverse=True)))
        self._cut = re.compile(rf"(?:{cut})\Z" if cut else r"(?!)", re.IGNORECASE)
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
        """The same for a text that the model goes on from: without the beginning of a word at its end."""
        text = self(text)
        text = self._cut.sub(lambda match: match[0].translate(_OTHER_BRACKETS), text)
        forms = (unicodedata.normalize("NFKC", text), self._normalize(text))
        return self._bare(text) if any(map(self._cut.search, forms)) else text

    def _bare(self, text: str) -> str:
        """Without any bracket, nor what the tokenizer or NFKC would make one of."""

        def bare(character: str) -> str:
            forms = character + self._normalize(character) + unicodedata.normalize("NFKC", character)
            return next((form.translate(_OTHER_BRACKETS) for form in forms if form in _BRACKETS), character)

        return "".join(map(bare, text))
