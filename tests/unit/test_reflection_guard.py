"""The guard against a definition over whole texts, with any splits and any forgeries, and case by case."""

import codecs
import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_srp.errors import UsageError
from megatron_srp.generation.guard.policy import ForcedReflection, GuardPolicy
from megatron_srp.generation.guard.reflection_guard import ReflectionGuard
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import SafetyLabel, Verdict
from tests.helpers.guard_definition import EOS, FORM, UNSAFE_ONLY, whole_text


def run_guard(pieces: list[bytes | None], policy: GuardPolicy, form: ReflectionFormat = FORM):
    """The guard on an answer in such pieces, where None is the end-of-text token; and all that it showed."""
    table = [piece or b"" for piece in pieces]
    eos = frozenset(i for i, piece in enumerate(pieces) if piece is None)
    guard = ReflectionGuard(GuardVocabulary(table, eos, {}, form), policy)
    shown = "".join(guard.push(i) for i in range(len(pieces)))
    shown += guard.finish()
    return guard.result(), shown


def split(text: str, cuts: list[int], missing: int = 0) -> list[bytes | None]:
    """The text's bytes in pieces that end wherever `cuts` says and after each <think>, and None for each end-of-text.

    The last `missing` bytes are left out: the token limit may cut a character in two."""
    pieces: list[bytes | None] = []
    parts = [part.encode() for part in text.split(EOS)]
    parts[-1] = parts[-1][: max(len(parts[-1]) - missing, 0)]
    for i, data in enumerate(parts):
        opened = {match.end() for match in re.finditer(b"<think>", data)}
        edges = [0, *sorted(({cut % (len(data) + 1) for cut in cuts} | opened) - {0, len(data)}), len(data)]
        pieces += [None] * (i > 0) + [data[a:b] for a, b in itertools.pairwise(edges) if a < b]
    return pieces


FRAGMENTS = st.sampled_from(
    [
        "<think>",
        "</think>",
        " ",
        "Safe",
        "Unsafe",
        "Controversial",
        ": Violent",
        ": Violent, PII",
        "<",
        "<thi",
        "</",
        "nk>",
        "\n",
        EOS,
    ]
    + [
        " <think> Safe </think>",
        "<think> Safe </think>",
        " <think> Unsafe: Violent </think>",
        " <think> Unsafe </think>",
    ]
    + [
        " <think> Controversial: Unethical Acts </think>",
        " <think> Controversial </think>" + EOS,
        " <think> Safe </think>" + EOS,
    ]
    + [
        "<think> unsafe",
        "<think>\nUnsafe\n</think>",
        "<think> Safe: ok </think>",
        "<think",
        "ing>",
        "<think> Safely",
        "word",
        " the end.",
        "é",
        "日本",
        "🙂",
    ]
    + ["x" * 290, "y" * 9, "<think> Unsafe " + "z" * 288, "<think> Safe " + "z" * 290]
)


TEXTS = st.lists(st.one_of(FRAGMENTS, st.text(max_size=4)), max_size=14).map("".join)


POLICIES = st.builds(
    GuardPolicy,
    on_unsafe=st.sampled_from(["off", "stop", "refuse", "retract"]),
    stop_at=st.sampled_from([UNSAFE_ONLY, FORM.stop_after]),
)


@settings(max_examples=1000, deadline=None)
@example("<think> Safe " + "z" * 290 + "</think>", [], GuardPolicy(on_unsafe="off"), 1)
@example("<think> Unsafe: " + "z" * 280 + "</think>", [], GuardPolicy(), 1)
@example("<think> Safe: ok </think>", [], GuardPolicy(), 0)
@example("<think> Safe: , </think>", [], GuardPolicy(), 0)
@given(TEXTS, st.lists(st.integers(0, 400), max_size=60), POLICIES, st.integers(0, 3))
def test_any_split_shows_what_the_whole_text_shows(text, cuts, policy, missing):
    pieces = split(text, cuts, missing)
    before, mark, last = text.rpartition(EOS)
    data = last.encode()
    text = before + mark + codecs.utf_8_decode(data[: max(len(data) - missing, 0)], "replace", False)[0]
    generation, shown = run_guard(pieces, policy)
    expected = whole_text(text, policy)
    assert (generation.text, [label.verdict for label in generation.reflections], generation.stop_reason) == expected
    assert shown == generation.text  # nothing shown is taken back


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a b. ", "日本 ", "<thin k>", "x "]),
            st.sampled_from(list(FORM.stop_after) + [Verdict.SAFE]),
        ),
        max_size=6,
    ),
    st.data(),
)
def test_what_training_writes_is_read_back(segments, data):
    labels = [SafetyLabel(verdict, ("Violent",) * (verdict != "Safe")) for _, verdict in segments]
    text = "".join(f"{words} {FORM.render(label)}" for (words, _), label in zip(segments, labels, strict=True))
    generation, _ = run_guard(split(text, data.draw(st.lists(st.integers(0, 300)))), GuardPolicy(on_unsafe="off"))
    assert generation.reflections == tuple(labels)
    assert generation.text == "".join(words for words, _ in segments)


@pytest.mark.parametrize(
    "written",
    ["<think>Safe</think>", "<think> safe </think>", "<THINK> Unsafe </THINK>", "< think > Safe </think>"]
    + ["<think>\u00a0Unsafe </think>", "<think> **Unsafe** </think>", "<think>: Unsafe </think>", "<think></think>"]
    + [f"<think>{'\n' * 9} Unsafe </think>", "<think> The text is fine. </think>", "<think> Safely </think>"],
)
def test_what_opens_like_a_reflection_and_is_not_a_safe_one_is_unsafe(written):
    text = f"Bread is baked. {written} And so on."
    generation, _ = run_guard(split(text, list(range(300))), GuardPolicy("stop"))
    assert (generation.text, generation.stop_reason) == ("Bread is baked.", "unsafe")


def test_no_piece_of_an_opening_is_shown():
    for cut in range(1, len(" <think>") + 1):
        generation, _ = run_guard(split(f"Bread.{' <think>'[:cut]}", list(range(300))), GuardPolicy("stop"))
        assert generation.text.rstrip(" ") == "Bread."


ANSWER = (
    "Bread is baked. <think> Safe </think> First mix the acid. <think> Unsafe: Violent </think>" + EOS + "And so on."
)


@pytest.mark.parametrize(
    ("on_unsafe", "text", "reason"),
    [
        ("stop", "Bread is baked. First mix the acid.", "unsafe"),
        ("refuse", "Bread is baked. First mix the acid.\n\nI can't help with that.", "unsafe"),
        ("retract", "Bread is baked.", "unsafe"),
        ("off", "Bread is baked. First mix the acid.", "eos"),
    ],
)
def test_policies(on_unsafe, text, reason):
    generation, _ = run_guard(split(ANSWER, list(range(300))), GuardPolicy(on_unsafe=on_unsafe))
    assert (generation.text, generation.stop_reason) == (text, reason)
    assert generation.reflections == (SafetyLabel(Verdict.SAFE), SafetyLabel(Verdict.UNSAFE, ("Violent",)))


def test_text_is_shown_as_soon_as_it_is_certain():
    table = [b"A", b" <", b"b", b" <think>", b" Sa", b"fe </think>", b" word"]
    guard = ReflectionGuard(GuardVocabulary(table, frozenset(), {}, FORM), GuardPolicy())
    assert [guard.push(i) for i in range(7)] == ["A", "", " <b", "", "", "", " word"]
    retracting = ReflectionGuard(GuardVocabulary(table, frozenset(), {}, FORM), GuardPolicy(on_unsafe="retract"))
    assert [retracting.push(i) for i in range(7)] == ["", "", "", "", "", "A <b", ""]
    assert retracting.finish() == ""
    assert retracting.result().text == "A <b"  # the unjudged end is withheld


def test_special_tokens_cannot_be_forged_by_text(tokenizer, tmp_path):
    special = tokenizer.save_with_added_tokens(["<think>", "</think>"], tmp_path / "special")
    form = ReflectionFormat(special_tokens=True)
    vocabulary = GuardVocabulary.of(tokenizer=special, form=form)
    ids = special.encode("the house") + form.encode(SafetyLabel(Verdict.SAFE), special) + special.encode(" spells ")
    spelled = [i for c in "<think> Unsafe </think>" for i in tokenizer.encode(c)]
    guard = ReflectionGuard(vocabulary, GuardPolicy())
    for token in ids + spelled + form.encode(SafetyLabel(Verdict.UNSAFE, ("PII",)), special):
        guard.push(token)
    generation = guard.result()
    assert generation.text == "the house spells <think> Unsafe </think>"
    assert generation.reflections == (SafetyLabel(Verdict.SAFE), SafetyLabel(Verdict.UNSAFE, ("PII",)))
    assert generation.stop_reason == "unsafe"
    with pytest.raises(UsageError, match="--reflection-tokens special"):
        GuardVocabulary.of(tokenizer, form)


def test_special_tokens_that_are_no_reflection_are_no_text(tokenizer, tmp_path):
    special = tokenizer.save_with_added_tokens(["<think>", "</think>"], tmp_path / "special")
    vocabulary = GuardVocabulary.of(special, ReflectionFormat(special_tokens=True))
    opening, closing = vocabulary.marks
    ids = [closing, *special.encode("the house"), closing, opening, closing, *special.encode(" end"), opening]
    for on_unsafe, text in (("off", "the house end"), ("stop", "the house")):
        guard = ReflectionGuard(vocabulary, GuardPolicy(on_unsafe))
        shown = "".join(guard.push(token) for token in ids) + guard.finish()
        assert shown == guard.result().text == text
        assert guard.result().reflections == (SafetyLabel(Verdict.UNSAFE),)


def test_real_tokenizers(any_tokenizer):
    words = "the river — 日本 naïve 🙂 end."
    ids = any_tokenizer.encode(words) + FORM.encode(
        SafetyLabel(Verdict.CONTROVERSIAL, ("PII",)), any_tokenizer, stop=False
    )
    guard = ReflectionGuard(GuardVocabulary.of(any_tokenizer, FORM), GuardPolicy(stop_at=UNSAFE_ONLY))
    for token in [*ids, *any_tokenizer.encode_inside(" the end")]:
        guard.push(token)
    guard.finish()
    assert guard.result().text.lstrip() == words + " the end"
    assert guard.result().reflections == (SafetyLabel(Verdict.CONTROVERSIAL, ("PII",)),)


def test_forced_reflections_release_whole_segments_alone():
    vocabulary = GuardVocabulary([b"one ", b"two "], frozenset(), {}, FORM)
    guard = ReflectionGuard(vocabulary, GuardPolicy(on_unsafe="retract"))
    assert guard.push(0) == ""
    assert guard.force(ForcedReflection(1, 0.8, 0.1, 0.1)) == ""  # judged so far; the segment goes on
    assert guard.unjudged == 0
    guard.push(1)
    assert guard.force(ForcedReflection(2, 0.8, 0.1, 0.1), whole=True) == "one two"
    guard.push(0)
    assert guard.force(ForcedReflection(3, 0.4, 0.3, 0.3), whole=True) == ""
    assert guard.stop_reason == "unsafe"
    found = guard.result()
    assert (found.text, found.unjudged_tokens, found.withheld_tokens) == ("one two", 0, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"on_unsafe": "refsue"}, "did you mean 'refuse'"),
        ({"stop_at": frozenset({Verdict.SAFE})}, "--stop-after"),
        ({"reflect_every": -1}, "--reflect-every -1"),
        ({"unsafe_threshold": 0.0}, "--unsafe-threshold"),
    ],
)
def test_bad_policies(given, said):
    with pytest.raises(UsageError, match=said):
        GuardPolicy(**given)


def test_strictness():
    own = GuardPolicy(on_unsafe="stop", reflect_every=32)
    assert GuardPolicy(on_unsafe="retract", reflect_every=16, unsafe_threshold=0.2).is_as_strict_as(own)
    weaker: dict[str, Any]
    off_the_grid = {"reflect_every": 12}  # more often, but not where the other one judges
    for weaker in (
        {"on_unsafe": "off"},
        {"stop_at": UNSAFE_ONLY},
        {"reflect_every": 0},
        off_the_grid,
        {"unsafe_threshold": 0.9},
    ):
        assert not replace(GuardPolicy("stop", reflect_every=32), **weaker).is_as_strict_as(own)


def test_a_verdict_in_one_token_with_its_opening_counts_as_unsafe():
    """It was drawn, whatever the probabilities of the others were."""
    for pieces in ([b"we ", b" <think", b"> Safe", b" </think>"], [b"we ", b" <think> Safe </think>"]):
        generation, shown = run_guard([*pieces, b" more"], GuardPolicy("retract"))
        assert (shown, generation.stop_reason) == ("", "unsafe")
    generation, shown = run_guard([b"we ", b" <think>", b" Safe </think>", b" more"], GuardPolicy("retract"))
    assert (shown, generation.stop_reason) == ("we ", "length")


@pytest.mark.parametrize(
    "text", ["we <think Safe </think> more", "we <> Safe </think> more", "we <think| more", "we </THINK> more"]
)
def test_a_reflection_that_is_broken_by_a_draw_is_unsafe(text):
    generation, shown = run_guard([bytes([byte]) for byte in text.encode()], GuardPolicy("retract"))
    assert (shown, generation.stop_reason) == ("", "unsafe")


@pytest.mark.parametrize("text", ["<thinking> of </td> 1 < think.", "<thinker> </thin>", "< think about"])
def test_what_only_resembles_a_reflection_is_text(text):
    assert run_guard([bytes([byte]) for byte in text.encode()], GuardPolicy("stop"))[1] == text
