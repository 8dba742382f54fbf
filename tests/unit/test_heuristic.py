"""The heuristic guard: its lexicon hangs together, and both ways in give the same labels."""

import re

import pyarrow as pa
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from megatron_srp.annotation import load_guard
from megatron_srp.annotation.guards.heuristic import LEXICON, Lexicon, fill_sets
from megatron_srp.schema import SAFE, SafetyLabel, Verdict

GUARD = load_guard("heuristic")
TREE = yaml.safe_load(LEXICON.read_text())
LINES = [
    (name, verdict, line)
    for name, entry in TREE["categories"].items()
    for verdict in ("unsafe", "controversial")
    for line in entry[verdict].splitlines()
]
QWEN3GUARD_CATEGORIES = [
    "Violent",
    "Non-violent Illegal Acts",
    "Sexual Content or Sexual Acts",
    "PII",
    "Suicide & Self-Harm",
    "Unethical Acts",
    "Politically Sensitive Topics",
    "Copyright Violation",
    "Jailbreak",
]


def label_of(text: str) -> SafetyLabel:
    return GUARD.classify([text])[0]


def test_categories_are_qwen3guards() -> None:
    assert [c.name for c in Lexicon.load().categories] == QWEN3GUARD_CATEGORIES


def test_revision_is_a_hash_of_the_lexicon(tmp_path) -> None:
    other = tmp_path / "lexicon.yaml"
    other.write_bytes(LEXICON.read_bytes())
    assert Lexicon.load(other).revision == GUARD.revision
    other.write_bytes(LEXICON.read_bytes() + b"\n")
    assert Lexicon.load(other).revision != GUARD.revision
    assert re.fullmatch("[0-9a-f]{12}", GUARD.revision)


@pytest.mark.parametrize(("name", "verdict", "line"), LINES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_whatever_a_line_matches_is_found(name: str, verdict: str, line: str, data: st.DataObject) -> None:
    # Among others: whatever a pattern matches contains a trigger.
    text = data.draw(st.from_regex(re.compile(fill_sets(line, TREE["sets"]), re.ASCII), fullmatch=True))
    assume(len(text) < 100)
    label = label_of(f'He said: "{text.upper()}".')
    assert label.verdict is (Verdict.UNSAFE if verdict == "unsafe" else label.verdict)
    assert label.verdict is not Verdict.SAFE
    assert name in label.categories or (verdict, label.verdict) == ("controversial", Verdict.UNSAFE)


def test_safe_text() -> None:
    for text in ("", " \n", "The skillet was hot, and the robe forgotten.", "A method, a rigid shape, bombast."):
        assert label_of(text) == SAFE


def test_verdict_is_the_worst_and_categories_are_in_the_order_of_the_lexicon() -> None:
    text = "Slavery was debated. He was told how to launder money and how to build a bomb."
    assert label_of(text) == SafetyLabel(Verdict.UNSAFE, ("Violent", "Non-violent Illegal Acts"))
    text = "The chapter on slavery also mentions a murder."
    assert label_of(text) == SafetyLabel(Verdict.CONTROVERSIAL, ("Violent", "Unethical Acts"))


def test_line_breaks_and_case_do_not_matter() -> None:
    assert label_of("He wanted to MURDER\n  the Villagers.").verdict is Verdict.UNSAFE
    assert label_of("her social\nsecurity number").categories == ("PII",)


def test_a_trigger_far_from_the_pattern_hides_nothing() -> None:
    filler = "plain words of no interest " * 40
    text = f"murder {filler} they threatened to kill him {filler} murder"
    assert label_of(text).verdict is Verdict.UNSAFE


def test_text_without_spaces() -> None:
    assert label_of("x" * 50_000 + ".murder." + "y" * 50_000).verdict is Verdict.CONTROVERSIAL
    assert label_of("我们" * 5_000) == SAFE


@settings(deadline=None)
@given(st.lists(st.sampled_from(["murder", "kill him", "tea", "é", "slavery", "fraud", "\n", "“bomb”"]), max_size=30))
def test_labels_do_not_depend_on_the_batch(words: list[str]) -> None:
    texts = [" ".join(words[:n]) for n in range(len(words) + 1)]
    one_by_one = [label_of(text) for text in texts]
    assert GUARD.classify(texts) == one_by_one
    assert GUARD.classify_array(pa.array(["x", *texts], pa.large_string()).slice(1)) == one_by_one


def test_no_texts() -> None:
    assert GUARD.classify([]) == []
