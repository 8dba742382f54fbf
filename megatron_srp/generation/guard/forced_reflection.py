"""Forced reflection: which tokens represent the verdicts, for any tokenizer.

A verdict's tokens are what its reflections have in common, with and without categories: ` <think> Safe`. What
the three begin with (` <think>`) is the root of their tree; a model reads all branches in one pass, and the
three probabilities are then scaled to sum to 1.
"""

from megatron_srp.errors import UsageError
from megatron_srp.reflection import Encoder, ReflectionFormat
from megatron_srp.schema import Verdict
from megatron_srp.verdict_tree import VerdictTree, common_beginning


def reflection_tree(form: ReflectionFormat, tokenizer: Encoder) -> VerdictTree:
    """The tree of that tokenizer, its verdicts in the order of `Verdict`; a space precedes the reflection, as
    everywhere in training.

    Raises:
        UsageError: when the tokens do not distinguish the verdicts.
    """
    paths = [_verdict_path(form, tokenizer, verdict) for verdict in Verdict]
    try:
        tree = VerdictTree.of(paths)
    except ValueError:
        tree = None
    if tree is None or not common_beginning(paths):
        raise UsageError(
            f"the tokens of {form.open} {' | '.join(Verdict)} do not tell the verdicts apart with this "
            "tokenizer; leave forced reflection out (--reflect-every 0)"
        )
    return tree


def _verdict_path(form: ReflectionFormat, tokenizer: Encoder, verdict: Verdict) -> list[int]:
    word = f"{'' if form.special_tokens else ' '}{form.open} {verdict}"
    after = ["", f" {form.close}", *([] if verdict is Verdict.SAFE else [f": Violent {form.close}"])]
    return common_beginning([tokenizer.encode_inside(word + text) for text in after])
