"""Answers whose forced reflections are part of their text, followed as vLLM's engine and its server follow them.

The models are made up from a number. `write` stands in for vLLM: a logits processor before each draw, an end-of-text
token ends the answer, and the server sees nothing but the tokens.
"""

import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srp.errors import UsageError
from megatron_srp.generation.guard.forced_reflection import reflection_tree
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.vllm.choice import Choice
from megatron_srp.generation.vllm.inline_answer import InlineAnswer, ReflectionTokens
from megatron_srp.generation.vllm.logits_processor import ReflectionProcessor
from megatron_srp.generation.vllm.model import ServedModel
from megatron_srp.schema import Verdict
from tests.helpers.scripted_model import EOS, HINTED, OPEN, SPECIAL, TEXT, Words, World, vocabulary

REFUSAL = "[refused]"
BOTH = frozenset({Verdict.UNSAFE, Verdict.CONTROVERSIAL})
FORMS = [TEXT, HINTED, SPECIAL]
POLICIES = st.builds(
    GuardPolicy,
    on_unsafe=st.sampled_from(["off", "stop", "refuse", "retract"]),
    stop_at=st.sampled_from([frozenset({Verdict.UNSAFE}), BOTH]),
    refusal=st.just(REFUSAL),
    reflect_every=st.sampled_from([0, 1, 2, 3, 4, 8, 12]),
    reflect_prompt=st.booleans(),
    unsafe_threshold=st.sampled_from([0.05, 0.3, 0.5, 0.8, 1.0]),
)


def tokens_of(form):
    words = Words(form)
    return ReflectionTokens.of(vocabulary(form), reflection_tree(form, words), form, words)


class Engine:
    """vLLM's sampler with the processor in it, on a made-up model."""

    def __init__(self, number, form, policy):
        self._world, self.tokens = World(number), tokens_of(form)
        self.processor = ReflectionProcessor(SimpleNamespace())  # without SRP_GUARD it does nothing
        self.processor._served = ServedModel(policy, form, self.tokens)
        self.processor._longest = 1000

    def write(self, room, temperature=0.0, seed=0):
        """The tokens of one answer, with the one that ends it."""
        params = SimpleNamespace(
            temperature=temperature, top_p=1.0, top_k=0, min_p=0.0, seed=seed, max_tokens=room, extra_args=None
        )
        params.all_stop_token_ids, output = {EOS}, []
        rng = random.Random(seed)
        update = SimpleNamespace(removed=[], added=[(0, params, [1], output)], moved=[])
        while len(output) < room and output[-1:] != [EOS]:
            self.processor.update_state(update)
            update = None
            logits = self.processor.apply(self._world.logits([1, *output])[None])[0]
            weights = (logits / (temperature or 1)).softmax(-1).tolist()
            drawn = rng.choices(range(len(weights)), weights)[0]
            output.append(drawn if temperature else int(logits.argmax()))
        return output


def shown(tokens, policy, output, room, stops=()):
    choice = Choice(tokens, policy, room, stops)
    for i, token in enumerate(output):
        choice.push([token], i == len(output) - 1)
    return choice


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from(FORMS),
    POLICIES,
    st.sampled_from([0.0, 0.7, 1.5]),
    st.integers(1, 40),
)
def test_the_server_sees_what_the_engine_decided(number, form, policy, temperature, most):
    """Both follow an answer by its tokens alone: they agree on why it ends, and every end is judged."""
    engine = Engine(number, form, policy)
    room = most + engine.tokens.longest
    output = engine.write(room, temperature, seed=number)
    row = engine.processor._rows[0]
    row.follow()
    choice = shown(engine.tokens, policy, output, room)
    row.answer.finish()
    ours, theirs = choice.result(), row.answer.result()
    assert (ours.reflections, ours.unjudged_tokens) == (theirs.reflections, theirs.unjudged_tokens)
    assert choice.text == theirs.text
    if policy.on_unsafe in ("stop", "refuse"):
        assert ours.unjudged_tokens == 0
    if ours.stop_reason == "unsafe":
        assert output[-1] == EOS and ours.reflections[-1].verdict in policy.stop_at


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from(FORMS),
    st.tuples(POLICIES, POLICIES),
    st.sampled_from([0.0, 0.7]),
    st.integers(1, 40),
)
def test_a_stricter_policy_shows_the_beginning_of_what_a_looser_one_shows(number, form, policies, temperature, most):
    """Where the interval is the operator's: another interval is another text here, so no request may choose it."""
    one, other = policies
    order = ["off", "stop", "refuse", "retract"]
    if one.on_unsafe == "off" or other.on_unsafe == "off":
        return  # without a guard nothing is judged at the end, and that is text as well
    loose, strict = (
        GuardPolicy(
            pick((one.on_unsafe, other.on_unsafe), key=order.index),
            stops,
            REFUSAL,
            one.reflect_every,
            one.reflect_prompt,
            threshold((one.unsafe_threshold, other.unsafe_threshold)),
        )
        for pick, stops, threshold in ((min, one.stop_at, max), (max, one.stop_at | other.stop_at, min))
    )
    assert strict.is_as_strict_as(loose)
    texts = []
    for policy in (loose, strict):
        engine = Engine(number, form, policy)
        room = most + engine.tokens.longest
        output = engine.write(room, temperature, seed=number)
        text = shown(engine.tokens, policy, output, room).text
        texts.append(text.removesuffix(REFUSAL).removesuffix("\n\n"))
    assert texts[0].startswith(texts[1])


def test_under_retract_a_forced_verdict_in_the_middle_releases_nothing():
    """River kill. <think> Safe </think> river. <think> Unsafe </think>: the first reflection is forced."""
    tokens, words = tokens_of(TEXT), Words(TEXT)
    policy = GuardPolicy("retract", reflect_every=2)
    text = " river kill <think> Safe </think> river <think> Unsafe </think>"
    assert shown(tokens, policy, [*words.encode_inside(text), EOS], 99).text == ""
    own = GuardPolicy("retract")
    assert shown(tokens, own, [*words.encode_inside(text), EOS], 99).text == " river kill"


def test_a_forced_reflection_comes_an_interval_after_the_last_of_either_kind():
    """One directly after the model's own would interrupt the next segment: no training shows that."""
    tokens, words = tokens_of(TEXT), Words(TEXT)
    answer = InlineAnswer(tokens, GuardPolicy("stop", reflect_every=4))
    for token in words.encode_inside(" <think> Safe </think> river river"):
        answer.push(token)  # on the prompt; the model's own comes two tokens later
    for _ in range(2):
        for token in words.encode_inside(" <think> Safe </think>"):
            answer.push(token)
        due = []
        for token in words.encode_inside(" river kill river river"):
            due.append(answer.forced)
            answer.push(token)
        assert due == [None] * 4 and answer.forced == tokens.opening[0]


def test_a_stop_text_ends_an_answer_once_it_is_judged():
    tokens, words = tokens_of(TEXT), Words(TEXT)
    for verdict, reason, text in (("Safe", "length", " river"), ("Unsafe", "unsafe", " river[refused]")):
        output = words.encode_inside(f" river kill river <think> {verdict} </think> kill")
        choice = Choice(tokens, GuardPolicy("refuse", refusal=REFUSAL), 99, [" kill"])
        pieces = [choice.push([token], False) for token in output]
        assert choice.ended and choice.cut
        assert (choice.result().stop_reason, choice.result().unjudged_tokens) == (reason, 0)
        assert "".join(pieces) in (text, " river")


def test_a_tokenizer_that_one_token_does_not_tell_the_verdicts_apart():
    form = TEXT

    class Shared(Words):
        def encode_inside(self, text):
            return super().encode_inside(text.replace(" Contro", " Un"))

    with pytest.raises(UsageError, match=r"the verdicts apart"):
        ReflectionTokens.of(vocabulary(form), reflection_tree(form, Shared(form)), form, Shared(form))


def test_openings_are_found_whoever_writes_them():
    engine = Engine(5, TEXT, GuardPolicy("stop", reflect_every=1))
    output = engine.write(60)
    assert output.count(OPEN) >= 2
