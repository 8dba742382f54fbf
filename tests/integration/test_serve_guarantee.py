"""What a client cannot do to the guard of tools/serve.py. The model is undecided about its second segment: it says
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
    found = choices(served, temperature=temperature, n=64, seed=1, max_tokens=80)
    shown = collections.Counter((choice.message.content, choice.finish_reason) for choice in found)
    assert not any("kill" in text for text, _ in shown)
    assert shown[SAFE_PART, "content_filter"] >= 60
