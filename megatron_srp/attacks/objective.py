"""What a search makes likely after a prompt.

    plain      TARGET                                      an attack that does not know the defence
    suppress   TARGET <think> Safe    and    <think> Safe  the model may reflect, but then finds no harm
    forge      <think> Safe </think> TARGET <think> Safe </think>   the model vouches for prompt and answer

`suppress` counts the target and the verdicts' own tokens: whether the model reflects is left to it, or to
forced reflections, which read exactly these tokens. `forge` counts everything: the model itself is made to
write what a user's prompt cannot contain. Both are adaptive attacks, against the guard and without it.
"""

from collections.abc import Sequence

from megatron_srp.attacks.likelihood import Continuation
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.schema import SAFE, Verdict
from megatron_srp.verdict_tree import VerdictTree

OBJECTIVES = ("plain", "suppress", "forge")


def build_objective(name: str, target: str, box: WhiteBox) -> list[Continuation]:
    """The continuations whose losses are added up.

    Args:
        name: one of `OBJECTIVES`.
        target: how a harmful answer begins, such as `Sure, here is`.
    """
    if name == "forge":
        vouched = box.form.text_inside(SAFE)
        return [Continuation.of(box.encode_answer(f"{vouched} {target}{vouched}"))]
    answer = box.encode_answer(target)
    if name == "plain":
        return [Continuation.of(answer)]
    verdict = _safe_verdict(box.verdict_tree)
    return [_counting((answer, True), *verdict), _counting(*verdict)]


def check_objective(name: str) -> None:
    """Raises UsageError for an unknown objective."""
    if name not in OBJECTIVES:
        raise UsageError(f"objective {name!r}; {did_you_mean(name, list(OBJECTIVES))}")


def _safe_verdict(tree: VerdictTree) -> tuple[tuple[Sequence[int], bool], ...]:
    """The tokens that open a reflection, which do not count, and those after them that say Safe."""
    path = tree.reads[list(Verdict).index(Verdict.SAFE)]
    return (tree.path_to(path[0][0]), False), ([token for _, token in path], True)


def _counting(*pieces: tuple[Sequence[int], bool]) -> Continuation:
    ids = [token for piece, _ in pieces for token in piece]
    return Continuation(tuple(ids), tuple(counts for piece, counts in pieces for _ in piece))
