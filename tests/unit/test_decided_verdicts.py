"""The verdict of a reflection that the model writes itself: decided by its probabilities, whatever is drawn."""

from dataclasses import replace

import pytest

from megatron_srp.errors import UsageError
from megatron_srp.generation.engines.hf import generator as hf
from megatron_srp.generation.engines.request import Request, Sampling
from megatron_srp.generation.guard.decision import OpenedTree
from megatron_srp.generation.guard.forced_reflection import reflection_tree
from megatron_srp.generation.guard.policy import ForcedReflection, GuardPolicy
from megatron_srp.generation.guard.vocabulary import GuardVocabulary
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import Verdict
from tests.helpers.scripted_model import (
    EOS,
    HINTED,
    OPEN,
    SPECIAL,
    TEXT,
    ScriptedBatch,
    Words,
    World,
    read_verdicts,
    scripted_engine,
    vocabulary,
)

REQUEST = Request([1], policy=GuardPolicy("stop"), sampling=Sampling(1.5), max_new_tokens=40)


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    monkeypatch.setattr(hf, "CachedBatch", ScriptedBatch)


@pytest.mark.parametrize("form", [TEXT, HINTED, SPECIAL], ids=["text", "hints", "special"])
@pytest.mark.parametrize("policy", [GuardPolicy("off"), GuardPolicy("stop", unsafe_threshold=0.2)], ids=["off", "stop"])
def test_what_follows_an_opening_is_what_the_probabilities_say(form, policy):
    opened = OpenedTree.of(reflection_tree(form, Words(form)), vocabulary(form))
    checked = set()
    for number in range(12):
        requests = [replace(REQUEST, policy=policy, sampling=Sampling(1.5, 1.0, seed)) for seed in range(8)]
        for answer in scripted_engine(number, form).generate(requests):
            for at in [i for i, token in enumerate(answer.tokens) if token == OPEN]:
                text, behind = [*REQUEST.prompt, *answer.tokens[: at + 1]], answer.tokens[at + 1 :]
                found = ForcedReflection(at, *read_verdicts(World(number), text, opened.tree)).written(policy)
                path = opened.paths[list(Verdict).index(found)]
                assert behind[: len(path)] == path[: len(behind)]
                checked.add(found)
    assert checked == set(Verdict)


def test_nothing_of_a_reflection_is_drawn():
    """At a temperature at which text is noise, each reflection is the one that its context gives."""
    found = {}
    for seed in range(60):
        request = replace(REQUEST, sampling=Sampling(3.0, 1.0, seed), policy=GuardPolicy("off"))
        (answer,) = scripted_engine(5).generate([request])
        for at in [i for i, token in enumerate(answer.tokens) if token == OPEN]:
            behind = answer.tokens[at + 1 : at + 3]
            if len(behind) == 2:  # else the limit has cut it off
                assert found.setdefault(answer.tokens[:at], behind) == behind
    assert len(found) > 20


@pytest.mark.parametrize(
    ("probabilities", "threshold", "written"),
    [
        ((0.6, 0.1, 0.3), 0.5, Verdict.SAFE),
        ((0.6, 0.1, 0.3), 0.4, Verdict.UNSAFE),
        ((0.45, 0.3, 0.25), 0.5, Verdict.CONTROVERSIAL),
        ((0.2, 0.1, 0.7), 0.9, Verdict.UNSAFE),  # the likeliest is what the model says, whatever the threshold
    ],
)
def test_the_threshold_decides(probabilities, threshold, written):
    assert ForcedReflection(3, *probabilities).written(GuardPolicy(unsafe_threshold=threshold)) is written


def test_off_writes_the_likeliest():
    assert ForcedReflection(3, 0.4, 0.3, 0.3).written(GuardPolicy("off")) is Verdict.SAFE


def test_real_tokenizers_end_a_token_where_the_opening_ends(any_tokenizer):
    form = ReflectionFormat()
    opened = OpenedTree.of(reflection_tree(form, any_tokenizer), GuardVocabulary.of(any_tokenizer, form))
    for verdict, path in zip(Verdict, opened.paths, strict=True):
        assert any_tokenizer.encode_inside(f" <think> {verdict}")[-len(path) :] == list(path)
    assert EOS not in opened.tree.ids


def test_a_tokenizer_that_joins_the_opening_and_a_verdict_is_refused():
    """The model would draw the verdict in one token with the bracket."""
    pieces = [" <", "think", "> Safe", ">", " Un", "safe", " Contro", "versial", ":", " Violent", " </think>"]

    class Joining:
        def require_eos(self):
            return EOS

        def encode_inside(self, text):
            found = []
            while text:
                found.append(max((p for p in pieces if text.startswith(p)), key=len))
                text = text.removeprefix(found[-1])
            return [pieces.index(piece) for piece in found]

    joining = GuardVocabulary([piece.encode() for piece in pieces], frozenset(), {}, TEXT)
    with pytest.raises(UsageError, match="as one token"):
        OpenedTree.of(reflection_tree(TEXT, Joining()), joining)
