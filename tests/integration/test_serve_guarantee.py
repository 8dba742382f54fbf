"""What a client cannot do to the guard of `srp serve`. The model is undecided about its second segment: it says
`take a kill and a kill ...`, and that this is Unsafe with a probability of three quarters."""

import collections

import pytest

from tests.helpers.served import Served, say
from tests.helpers.tiny_reflector import make_tiny_reflector, wavering

SAFE_PART = "we saw the morning."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_reflector(tmp_path_factory.mktemp("wavering"), 400, wavering)


@pytest.fixture(scope="module")
def served(model):
    with Served(model, "--on-unsafe", "retract", "--served-name", "tiny") as server:
        yield server.wait()


def choices(served: Served, words: str = "knife", guard: dict | None = None, **settings) -> list:
    asked = {"guard": {"reflections": True} | (guard or {})}
    found = served.client.chat.completions.create(model="tiny", messages=say(words), extra_body=asked, **settings)
    return found.choices


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_no_draw_gets_another_verdict(served, temperature):
    found = [
        choice
        for seed in range(8)
        for choice in choices(served, temperature=temperature, n=8, seed=8 * seed, max_tokens=80)
    ]
    shown = collections.Counter((choice.message.content, choice.finish_reason) for choice in found)
    assert not any("kill" in text for text, _ in shown)
    assert shown[SAFE_PART, "content_filter"] >= 60


def test_a_smaller_interval_shows_no_more(served):
    """A forced verdict in the middle of a segment may stop it, and does not release what stands before it."""
    for every in (1, 2, 4, 8, 16):
        (choice,) = choices(served, guard={"reflect_every": every})
        assert (choice.message.content, choice.finish_reason) == (SAFE_PART, "content_filter")


@pytest.fixture(scope="module")
def refusing(model):
    with Served(model, "--on-unsafe", "refuse", "--served-name", "tiny") as server:
        yield server.wait()


def test_every_ending_is_judged(refusing):
    """The tail that a limit or a stop text cuts off has been read by the guard, and a verdict is more than either."""
    (whole,) = choices(refusing)
    assert whole.finish_reason == "content_filter" and len(whole.model_extra["guard"]["reflections"]) == 3
    for limits in ({"max_tokens": 40}, {"stop": [" river"]}, {"stop": ["I can't"]}):
        (choice,) = choices(refusing, **limits)
        guard = choice.model_extra["guard"]
        assert (choice.finish_reason, guard["unjudged_tokens"]) == ("content_filter", 0), (limits, choice)
        assert guard["forced"] or len(guard["reflections"]) == 3
    (safe,) = choices(refusing, "river", stop=[" river."])
    assert safe.finish_reason == "stop" and safe.model_extra["guard"]["forced"][-1]["safe"] > 0.5


def test_a_withheld_tail_is_no_empty_answer(served):
    found = served.client.chat.completions.create(model="tiny", messages=say("river"), max_tokens=30)
    (choice,) = found.choices
    assert choice.finish_reason == "length" and choice.model_extra["guard"]["withheld_tokens"] > 0
