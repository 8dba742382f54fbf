"""Which tokens of an answer its reader has seen, whole: those of which something may be said."""

from bisect import bisect_left
from collections.abc import Collection
from typing import NamedTuple


class ShownToken(NamedTuple):
    """The token `at` that place among the answer's tokens, and where its text begins and ends in what is shown."""

    at: int
    start: int
    end: int


class ShownTokens:
    """Follows each character from the token that wrote it to where it is shown."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, int] | None] = []  # of each token with text: see `push`
        self._read = 0  # characters
        self._held: list[int] = []  # positions of characters in the answer
        self._shown: list[int] = []

    def push(self, text: str, begins: bool = False, textless: bool = False) -> None:
        """A token. Its first space need not be shown: the one that an answer begins with is not.

        Args:
            text: the characters that it completes.
            begins: whether it begins another one, or continues one, without completing it.
            textless: whether it has no text at all.
        """
        begin, self._read = self._read, self._read + len(text)
        end = self._read + begins
        needed = begin + (text.startswith(" ") and end > begin + 1)
        self._spans.append(None if textless else (begin, needed, end))

    def hold(self, end: int, text: str, hidden: Collection[str] = ()) -> None:
        """`text` ends there in the answer, and will be shown, but for its characters in `hidden`."""
        first = end - len(text)
        self._held += [first + i for i, character in enumerate(text) if character not in hidden]

    def release(self) -> None:
        """Show what is held."""
        self._shown += self._held
        self._held.clear()

    def found(self) -> list[ShownToken]:
        """Those shown whole, with each character that they write a part of."""
        tokens = []
        for index, span in enumerate(self._spans):
            if span:
                start, needed, end = (bisect_left(self._shown, position) for position in span)
                if end - needed == span[2] - span[1]:
                    tokens.append(ShownToken(index, start, end))
        return tokens
