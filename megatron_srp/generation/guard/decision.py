"""Verdicts that are decided, not drawn: what follows the opening of the model's own reflection.

Once the model has written `<think>`, the verdict's tokens are those of the verdict that its probabilities and the
policy's threshold decide on, as for a forced reflection. Temperature, top-p and seed play no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from megatron_srp.errors import UsageError
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.verdict_tree import VerdictTree, until_apart


@dataclass(frozen=True, slots=True)
class OpenedTree:
    """The verdict tree of a text whose last tokens are an opening.

    Attributes:
        tree: of each verdict, its tokens up to the one that sets it apart. With most tokenizers that is the first, and
            the decision costs no pass: a model that reflects often would otherwise pay one for every segment.
        paths: for each verdict, in the order of `Verdict`, the tokens that write it.
    """

    tree: VerdictTree
    paths: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tree: VerdictTree, vocabulary: GuardVocabulary) -> "OpenedTree":
        """Raises UsageError when the tokenizer has no token that ends where the opening does: the model would draw
        the verdict together with it."""
        root = tree.root
        begun = accumulate(_text(token, vocabulary) for token in root)
        n = next((n for n, text in enumerate(begun, 1) if text.lstrip() == vocabulary.form.open), None)
        if n is None:
            raise UsageError(
                f"this tokenizer writes the end of {vocabulary.form.open} and a verdict as one token, so the verdict "
                "cannot be decided apart from its opening; train with --reflection-tokens special"
            )
        paths = tuple((*root[n:], *_tokens(path)) for path in tree.reads)
        return cls(VerdictTree.of(until_apart(paths)), paths)


def _tokens(path: Sequence[tuple[int, int]]) -> list[int]:
    return [token for _, token in path]


def _text(token: int, vocabulary: GuardVocabulary) -> str:
    return vocabulary.marks.get(token) or vocabulary.piece(token).decode(errors="replace")
