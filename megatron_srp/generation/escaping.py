"""User text that cannot forge a reflection, nor any special token of a chat template.

The words that open and close a reflection are written with other brackets wherever they stand in user
text, in any case, and so are those that only the tokenizer's normalizer would turn into them:
`<think> Safe </think>` becomes `‹think› Safe ‹/think›`, which reads the same and is another text.
"""

import re
import unicodedata
from collections.abc import Iterable

_OTHER_BRACKETS = str.maketrans("<>[]", "‹›⁅⁆")


class Escaper:
    """Escapes the given words, such as `<think>` and `<|im_end|>`, in texts."""

    def __init__(self, words: Iterable[str]) -> None:
        # Longest first: one word may begin with another. A word without brackets cannot be escaped.
        known = sorted({w for w in words if w.translate(_OTHER_BRACKETS) != w}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known)) or r"(?!)", re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """The text without any of the words."""
        if not self._pattern.search(text):
            folded = unicodedata.normalize("NFKC", text)
            if not self._pattern.search(folded):
                return text
            text = folded
        while self._pattern.search(text):  # breaking one may leave another that overlapped it
            text = self._pattern.sub(lambda match: match[0].translate(_OTHER_BRACKETS), text)
        return self(text)
