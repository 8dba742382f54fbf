"""What a stricter policy shows is the beginning of what a looser one shows, for any model, policy and client."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.generation.engines.hf import generator as hf
from megatron_srp.generation.engines.request import Answer, Request, Sampling
from megatron_srp.generation.guard.policy import Generation, GuardPolicy
from megatron_srp.schema import Verdict
from tests.helpers.scripted_model import HINTED, PIECES, SPECIAL, TEXT, ScriptedBatch, scripted_engine

REFUSAL = "[refused]"
POLICIES = st.builds(
    GuardPolicy,
    on_unsafe=st.sampled_from(["stop", "refuse", "retract"]),
    stop_at=st.sampled_from([frozenset({Verdict.UNSAFE}), frozenset({Verdict.UNSAFE, Verdict.CONTROVERSIAL})]),
    refusal=st.just(REFUSAL),
    reflect_every=st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12]),
    reflect_prompt=st.booleans(),
    unsafe_threshold=st.sampled_from([0.05, 0.3, 0.5, 0.8, 1.0]),
)
SAMPLING = st.builds(
    Sampling, st.sampled_from([0.0, 0.7, 1.5]), st.sampled_from([1e-46, 0.5, 1.0]), st.integers(0, 1 << 30)
)


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    monkeypatch.setattr(hf, "CachedBatch", ScriptedBatch)


def shown(found: Generation) -> str:
    return found.text.removesuffix(REFUSAL).removesuffix("\n\n")


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from([TEXT, HINTED, SPECIAL]),
    st.tuples(POLICIES, POLICIES),
    SAMPLING,
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_stricter_policy_shows_the_beginning_of_what_a_looser_one_shows(number, form, policies, sampling, limits):
    loose, strict = policies
    if not strict.is_as_strict_as(loose):
        strict = GuardPolicy(
            max(policies, key=lambda p: ["stop", "refuse", "retract"].index(p.on_unsafe)).on_unsafe,
            loose.stop_at | strict.stop_at,
            REFUSAL,
            next((n for n in (strict.reflect_every, 1) if n and loose.reflect_every % n == 0), 1),
            True,
            min(loose.unsafe_threshold, strict.unsafe_threshold),
        )
    assert strict.is_as_strict_as(loose)
    requests = [
        Request([1], policy=policy, sampling=sampling, max_new_tokens=limit)
        for policy, limit in ((loose, max(limits)), (strict, min(limits)))
    ]
    looser, stricter = scripted_engine(number, form).generate(requests)
    assert shown(looser).startswith(shown(stricter))
    if stricter.stop_reason != "unsafe":
        assert looser.tokens[: len(stricter.tokens)] == stricter.tokens


def test_a_row_without_a_distribution_fails_alone():
    engine = scripted_engine(3)
    world, broken = engine._model.logits, torch.full((len(PIECES) + 2,), float("nan"))
    engine._model.logits = lambda context: broken if context[0] == 2 and len(context) > 4 else world(context)
    requests = [Request([first], sampling=Sampling(0.7), max_new_tokens=20) for first in (1, 2, 3)]
    answers = [Answer(request, engine.vocabulary, lambda text: None) for request in requests]
    session = engine.session()
    session.add(answers)
    while session.answers:
        session.step()
    assert [type(answer.error) for answer in answers] == [type(None), RuntimeError, type(None)]
    for i in (0, 2):
        assert answers[i].guard.result() == engine.generate([requests[i]])[0]
    with pytest.raises(RuntimeError, match="nan"):
        engine.generate(requests)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([TEXT, HINTED, SPECIAL]), POLICIES, SAMPLING, st.integers(1, 40))
def test_every_ending_is_judged(number, form, policy, sampling, limit):
    request = Request([1], policy=policy, sampling=sampling, max_new_tokens=limit)
    (found,) = scripted_engine(number, form).generate([request])
    assert found.unjudged_tokens == 0
    if policy.on_unsafe != "retract":
        assert found.withheld_tokens == 0


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([TEXT, HINTED, SPECIAL]), SAMPLING)
def test_an_interval_that_ends_where_the_answer_does_withholds_nothing(number, form, sampling):
    """A verdict in the middle of a segment, read at its last token, does not replace the one at the answer's end."""
    policies = [GuardPolicy("retract", reflect_every=every, unsafe_threshold=1.0) for every in (0, 1)]
    requests = [Request([1], policy=policy, sampling=sampling, max_new_tokens=60) for policy in policies]
    plain, often = scripted_engine(number, form).generate(requests)
    if "eos" == plain.stop_reason == often.stop_reason:
        assert (often.text, often.withheld_tokens) == (plain.text, plain.withheld_tokens)
