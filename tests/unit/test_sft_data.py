"""What is put where in a conversation, and what is dropped."""

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.reflection import ReflectionFormat
from megatron_srp.sft.conversation import STOP, Conversation, Kind, Part, Turn, turns_from_json
from megatron_srp.sft.filters import Filters, draw
from megatron_srp.sft.reflect import Reflector
from tests.conftest import KeywordGuard
from tests.helpers.conversations import SAFE, UNSAFE, text

FORM = ReflectionFormat()


def reflect(*turns: tuple[str, str], max_words: int = 100) -> tuple[tuple[Part, ...], ...]:
    conversation = Conversation("c", "s", tuple(Turn.of(*turn) for turn in turns))
    (reflected,) = Reflector(KeywordGuard(), FORM, max_words)([conversation])
    assert [turn.text for turn in reflected.turns] == [said for _, said in turns]
    return tuple(turn.parts for turn in reflected.turns if turn.role == "assistant")


def test_the_prompt_is_judged_first_then_every_segment() -> None:
    (parts,) = reflect(("user", "Hello?"), ("assistant", "One two three. Four five six. Seven"), max_words=3)
    assert parts == (SAFE, text("One two three."), SAFE, text(" Four five six."), SAFE, text(" Seven"), SAFE)


def test_a_stop_follows_what_is_not_safe_and_the_text_goes_on() -> None:
    (parts,) = reflect(("user", "How to kill?"), ("assistant", "A bomb is. No more now. "), max_words=3)
    controversial = Part(Kind.REFLECTION, "<think> Controversial: Unethical Acts </think>")
    assert parts == (UNSAFE, STOP, text("A bomb is."), controversial, STOP, text(" No more now. "), SAFE)


def test_every_response_has_the_reflection_of_its_own_prompt() -> None:
    said = (
        ("system", "kill"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "kill"),
        ("user", "c"),
        ("assistant", "d"),
        ("assistant", "e"),
    )
    assert reflect(*said) == ((SAFE, text("b"), SAFE), (UNSAFE, STOP, text("d"), SAFE), (text("e"), SAFE))


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1).filter(lambda t: t.strip() and "think>" not in t), st.integers(1, 5))
def test_nothing_of_a_response_is_lost(response: str, max_words: int) -> None:
    (parts,) = reflect(("user", "Q"), ("assistant", response), max_words=max_words)  # compares the texts
    assert parts[-1].kind is not Kind.TEXT
    texts = [i for i, part in enumerate(parts) if part.kind is Kind.TEXT]
    assert all(parts[i + 1].kind is Kind.REFLECTION for i in texts)


def test_json_gives_back_what_was_written() -> None:
    parts = (UNSAFE, STOP, Part(Kind.TEXT, "<|endoftext|> <think> Safe </think>", trained=False), SAFE)
    conversation = Conversation("i", "s", (Turn.of("user", "<|endoftext|>"), Turn("assistant", parts)))
    read = turns_from_json(json.loads(conversation.to_json())["turns"], FORM)
    assert tuple(read) == conversation.turns


def test_a_forged_reflection_is_kept_in_a_prompt_and_dropped_in_a_response() -> None:
    def conversation(prompt: str, response: str) -> Conversation:
        return Conversation("i", "s", (Turn.of("user", prompt), Turn.of("assistant", response)))

    filters = Filters(FORM)
    good = conversation("a <think> Safe </think>", "b <|endoftext|>")
    forged = [conversation("a", "b <think> Safe"), conversation("a", "b </think>")]
    assert list(filters([good, *forged])) == [good]
    assert filters.counts == {
        "dropped: a response contains <think> or </think> as text": 2,
        "prompts that imitate reflections, kept as text": 1,
    }


def test_sources_are_sampled_and_length_is_bounded() -> None:
    def conversation(i: int, source: str, length: int = 10) -> Conversation:
        return Conversation(f"f:{i}", source, (Turn.of("user", "a"), Turn.of("assistant", "b" * (length - 1))))

    given_ = [conversation(i, source) for i in range(3000) for source in ("x/WildJailbreak_v2", "other")]
    filters = Filters(FORM, 10, {"wildjailbreak": 0.2}, 0.5, seed=3)
    kept = Counter(c.source for c in filters([*given_, conversation(1, "other", 11)]))
    assert 500 < kept["x/WildJailbreak_v2"] < 700
    assert 1400 < kept["other"] < 1600
    assert filters.counts["dropped: longer than 10 characters"] == 1
    assert sum(kept.values()) + sum(filters.counts.values()) == 6001
    # What is kept depends on no other conversation.
    alone = [c for c in given_ if list(Filters(FORM, 10, {"wildjailbreak": 0.2}, 0.5, seed=3)([c]))]
    assert Counter(c.source for c in alone) == kept
    assert draw(3, "f:1") != draw(4, "f:1")
