"""Forced reflection: which tokens stand for the verdicts, for any tokenizer.

A verdict's tokens are what its reflections have in common, with and without categories: ` <think> Safe`.
The three share a beginning, the root (` <think>`); what follows are the branches, one token or several.
A model reads all branches in one pass: the root's tokens, then each branch but its last token, where a
branch sees the root and itself. A verdict's probability is the product of its tokens' probabilities, and
the three are then scaled to sum to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from megatron_srp.errors import UsageError
from megatron_srp.reflection import Encoder, ReflectionFormat
from megatron_srp.schema import Verdict


@dataclass(frozen=True, slots=True)
class VerdictTree:
    """The tokens to append to a text, and where to read the verdicts.

    Attributes:
        ids: Q tokens to append.
        parents: for each of them, the index of the token before it; -1 is the text's last token.
        reads: for each verdict, in the order of `Verdict`, pairs of an index into `ids` and the token whose
            probability behind it counts.
    """

    ids: tuple[int, ...]
    parents: tuple[int, ...]
    reads: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, form: ReflectionFormat, tokenizer: Encoder) -> "VerdictTree":
        """The tree of that tokenizer; a space sets the reflection off, as everywhere in training.

        Raises:
            UsageError: when the tokens do not tell the verdicts apart.
        """
        paths = [_verdict_path(form, tokenizer, verdict) for verdict in Verdict]
        root = _common_beginning(paths)
        branches = [path[len(root) :] for path in paths]
        if not root or not all(branches):
            raise UsageError(
                f"the tokens of {form.open} {' | '.join(Verdict)} do not tell the verdicts apart with this "
                "tokenizer; leave forced reflection out (--reflect-every 0)"
            )
        ids, parents, reads = list(root), list(range(-1, len(root) - 1)), []
        for branch in branches:
            at, path = len(root) - 1, []
            for i, token in enumerate(branch):
                path.append((at, token))
                if i < len(branch) - 1:
                    ids.append(token)
                    parents.append(at)
                    at = len(ids) - 1
            reads.append(tuple(path))
        return cls(tuple(ids), tuple(parents), tuple(reads))

    @property
    def depth(self) -> int:
        """How many tokens behind each other a model reads behind the text at most."""
        return max(len(self.ancestors(i)) for i in range(len(self.ids)))

    def ancestors(self, i: int) -> list[int]:
        """Token `i` and those before it on its path, the last first: what it may see of the tree."""
        found = []
        while i >= 0:
            found.append(i)
            i = self.parents[i]
        return found


def _verdict_path(form: ReflectionFormat, tokenizer: Encoder, verdict: Verdict) -> Sequence[int]:
    word = f"{'' if form.special_tokens else ' '}{form.open} {verdict}"
    behind = ["", f" {form.close}", *([] if verdict is Verdict.SAFE else [f": Violent {form.close}"])]
    return _common_beginning([tokenizer.encode_inside(word + text) for text in behind])


def _common_beginning(rows: Sequence[Sequence[int]]) -> list[int]:
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return [column[0] for column in columns]
