"""Under `retract`, whatever the model, the policy and the client: the shown text is from before the last verdict."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.generation.engines.hf import generator as hf
from megatron_srp.generation.engines.request import Answer, Request, Sampling
from megatron_srp.generation.guard.policy import Generation, GuardPolicy
from megatron_srp.reflection import ReflectionFormat
from tests.helpers.scripted_model import HINTED, SPECIAL, TEXT, ScriptedBatch, scripted_engine

POLICIES = st.builds(
    GuardPolicy,
    on_unsafe=st.just("retract"),
    reflect_every=st.sampled_from([0, 1, 2, 3, 5, 8]),
    reflect_prompt=st.booleans(),
    unsafe_threshold=st.sampled_from([0.05, 0.3, 0.5, 0.9]),
)


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    monkeypatch.setattr(hf, "CachedBatch", ScriptedBatch)


def written(found: Generation, engine: hf.HFGenerator) -> str:
    """All that the model has written, reflections included."""
    marks, piece = engine.vocabulary.marks, engine.vocabulary.piece
    return "".join(marks.get(token) or piece(token).decode() for token in found.tokens)


def words(text: str, form: ReflectionFormat) -> str:
    """Without spaces, and without closing words that close nothing where these are special tokens."""
    return re.sub(r"\s+", "", text.replace(form.close, "") if form.special_tokens else text)


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from([TEXT, HINTED, SPECIAL]),
    POLICIES,
    st.builds(Sampling, st.sampled_from([0.0, 0.7, 1.5]), st.just(1.0), st.integers(0, 1 << 30)),
    st.integers(1, 50),
    st.none() | st.integers(1, 30),
)
def test_what_comes_after_the_last_reflection_is_shown_only_if_the_model_ends_it(
    number, form, policy, sampling, limit, stop
):
    """`stop`: the step at which a stop text or a time limit ends the answer. Found by the words alone, not by a guard."""
    engine, seen = scripted_engine(number, form), []
    request = Request([1], policy=policy, sampling=sampling, max_new_tokens=limit)
    answer, session, step = Answer(request, engine.vocabulary, seen.append), engine.session(), 0
    session.add([answer])
    while session.answers:
        step += 1
        answer.stopping |= step == stop
        session.step()
    found = answer.result()
    assert "".join(seen) == found.text and found.unjudged_tokens == 0
    first, *others = written(found, engine).split(form.open)
    if found.stop_reason != "eos":
        judged = [first, *(other.partition(form.close)[2] for other in others[:-1])] if others else []
        assert words("".join(judged), form).startswith(words(found.text, form))
