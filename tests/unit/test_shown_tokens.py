"""Of which tokens an answer's reader may learn something: those whose whole text is shown."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.guard.reflection_guard import ReflectionGuard
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.reflection import ReflectionFormat

PARTS = ("a river.", " é 🌊", " <think> Safe </think>", " <think> Unsafe: X </think>", "<thi", "n", "<", " ", "kill")


def answer(pieces: list[bytes], policy: str) -> ReflectionGuard:
    """A guard that has taken tokens of these bytes, each an id of its own."""
    guard = ReflectionGuard(
        GuardVocabulary(pieces, frozenset(), {}, ReflectionFormat()), GuardPolicy(on_unsafe=policy, refusal="")
    )
    for token in range(len(pieces)):
        guard.push(token)
    guard.finish()
    return guard


def split(text: str, cuts: set[int]) -> list[bytes]:
    data = text.encode()
    at = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    return [data[begin:end] for begin, end in pairwise(at)]


@settings(max_examples=400, deadline=None)
@given(
    parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=8),
    cuts=st.sets(st.integers(0, 200), max_size=30),
    policy=st.sampled_from(["off", "stop", "refuse", "retract"]),
)
def test_each_shown_token_is_where_it_says(parts, cuts, policy):
    pieces = split("".join(parts), cuts)
    guard = answer(pieces, policy)
    text, found = guard.result().text, guard.shown.found()
    assert [one.at for one in found] == sorted({one.at for one in found})
    for one in found:
        written = text[one.start : one.end].encode()
        assert pieces[one.at].removeprefix(b" ") in written and len(written.decode()) == one.end - one.start
    for one, other in pairwise(found):
        assert one.start <= other.start and one.end - other.start <= 1  # a character that they share


@given(cuts=st.sets(st.integers(0, 200)))
def test_all_tokens_of_plain_text_are_shown(cuts):
    pieces = split("a river é 🌊, and no more.", cuts)
    assert [one.at for one in answer(pieces, "off").shown.found()] == list(range(len(pieces)))


def test_the_space_that_an_answer_begins_with_hides_no_token():
    guard = answer([b" <think>", b" Safe", b" </think>", b" a", b" river"], "off")
    assert guard.result().text == "a river" and [tuple(one) for one in guard.shown.found()] == [(3, 0, 1), (4, 1, 7)]


def test_a_token_that_is_partly_of_a_reflection_is_not_shown():
    pieces = [b"a river", b". <think>", b" Safe", b" </think>", b" then", b" <think> Unsafe </think>"]
    for policy, shown in (("off", [0, 4]), ("stop", [0, 4]), ("retract", [0])):
        assert [one.at for one in answer(pieces, policy).shown.found()] == shown
