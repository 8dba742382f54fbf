import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_srp.errors import UsageError
from megatron_srp.reflection import ReflectionFormat, parse_stop_after
from megatron_srp.schema import SAFE, AnnotatedDocument, SafetyLabel, Segment, Verdict

CATEGORIES = st.text(st.characters(exclude_characters=",<>\n\r", exclude_categories=["C", "Z"]), min_size=1)
LABELS = st.one_of(
    st.just(SAFE),
    st.builds(
        SafetyLabel,
        st.sampled_from([Verdict.UNSAFE, Verdict.CONTROVERSIAL]),
        st.lists(CATEGORIES, max_size=4).map(tuple),
    ),
)
FORM = ReflectionFormat()


@given(LABELS)
def test_parse_inverts_render(label):
    assert FORM.parse(FORM.render(label)) == label
    text = f"Some text. {FORM.render(label)} and more"
    assert [found for *_, found in FORM.find(text)] == [label]


def test_the_papers_forms():
    assert FORM.render(SAFE) == "<think> Safe </think>"
    assert FORM.render(SafetyLabel(Verdict.UNSAFE, ("Violent",))) == "<think> Unsafe: Violent </think>"
    label = SafetyLabel(Verdict.CONTROVERSIAL, ("Unethical Acts",))
    assert FORM.render(label) == "<think> Controversial: Unethical Acts </think>"


@pytest.mark.parametrize(
    "text", ["<think> Safe", "<think>Safe</think>", "<think> Sure </think>", "x <think> Safe </think>"]
)
def test_what_is_no_reflection_is_not_parsed(text):
    assert FORM.parse(text) is None


def test_controversial_policy():
    label = SafetyLabel(Verdict.CONTROVERSIAL, ("PII",))
    assert ReflectionFormat(controversial="safe").render(label) == "<think> Safe </think>"
    assert ReflectionFormat(controversial="unsafe").render(label) == "<think> Unsafe: PII </think>"
    assert not ReflectionFormat(controversial="safe").stops(label)
    with pytest.raises(UsageError, match="keep, safe, unsafe"):
        ReflectionFormat(controversial="maybe")  # type: ignore[arg-type]


def test_encode_ends_in_eos_after_the_chosen_verdicts(any_tokenizer):
    unsafe = SafetyLabel(Verdict.UNSAFE, ("Violent",))
    ids = FORM.encode(unsafe, any_tokenizer)
    assert ids[-1] == any_tokenizer.eos_id
    assert any_tokenizer.decode(ids[:-1]).strip() == FORM.render(unsafe)
    assert any_tokenizer.eos_id not in FORM.encode(SAFE, any_tokenizer)
    assert any_tokenizer.eos_id not in FORM.encode(unsafe, any_tokenizer, stop=False)
    assert any_tokenizer.eos_id not in ReflectionFormat(stop_after=frozenset()).encode(unsafe, any_tokenizer)


def test_a_reflection_in_a_document_reads_as_one_text(any_tokenizer):
    """No space is doubled by a dummy prefix, and none is missing."""
    before, after = any_tokenizer.encode("One sentence."), any_tokenizer.encode_inside(" The next.")
    ids = [*before, *FORM.encode(SAFE, any_tokenizer), *after]
    assert any_tokenizer.decode(ids) == "One sentence. <think> Safe </think> The next."


def test_stop_after():
    assert parse_stop_after("unsafe, Controversial") == {Verdict.UNSAFE, Verdict.CONTROVERSIAL}
    assert parse_stop_after("none") == frozenset()
    with pytest.raises(UsageError, match="leave Safe out"):
        parse_stop_after("Safe")
    with pytest.raises(UsageError, match="unknown verdict 'Bad'"):
        parse_stop_after("Bad")


def test_special_tokens_are_single_ids(any_tokenizer, tmp_path):
    form = ReflectionFormat(special_tokens=True)
    extended = any_tokenizer.save_with_added_tokens([form.open, form.close], tmp_path / "extended")
    ids = form.encode(SAFE, extended)
    assert (ids[0], ids[-1]) == (any_tokenizer.vocab_size, any_tokenizer.vocab_size + 1)
    assert extended.decode(ids).strip() == "<think> Safe </think>"
    assert extended.eos_id == any_tokenizer.eos_id
    assert extended.fingerprint != any_tokenizer.fingerprint


@pytest.mark.parametrize("category", ["", " x", "a, b", "a<b", "a\nb"])
def test_categories_that_could_not_be_read_back_are_refused(category):
    with pytest.raises(ValueError, match="category"):
        SafetyLabel(Verdict.UNSAFE, (category,))


def test_annotated_documents_must_be_tiled():
    AnnotatedDocument("d", "abcd", (Segment(0, 2), Segment(2, 4)), (SAFE, SAFE))
    for segments in [(Segment(0, 2),), (Segment(0, 2), Segment(3, 4)), (Segment(0, 3), Segment(2, 4))]:
        with pytest.raises(ValueError, match="tile"):
            AnnotatedDocument("d", "abcd", segments, (SAFE,) * len(segments))
    with pytest.raises(ValueError, match="labels"):
        AnnotatedDocument("d", "abcd", (Segment(0, 4),), ())
