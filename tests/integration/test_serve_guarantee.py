"""What a client cannot do to the guard of `srp serve`, and to that of vLLM's own server, where one can be started
(SRP_VLLM_PYTHON). The model is undecided about its second segment: it says `take a kill and a kill ...`, and that this
is Unsafe with a probability of three quarters."""

import collections

import pytest

from tests.helpers.served import Served, say
from tests.helpers.tiny_reflector import make_tiny_reflector, wavering
from tests.helpers.vllm_served import VLLMServed

SAFE_PART = "we saw the morning."
# The strictest policies are the requests' own in vLLM, so that one server is enough: each takes long to start.
SERVERS = ["srp serve", pytest.param("vllm serve", marks=pytest.mark.exhaustive)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_reflector(tmp_path_factory.mktemp("wavering"), 400, wavering, head_dim=32)


@pytest.fixture(scope="module", params=SERVERS)
def start(request, model):
    """A function that gives a server under a policy, and what each request has to say for it."""
    running: dict[str, Served] = {}

    def under(policy: str) -> tuple[Served, dict]:
        if request.param == "vllm serve":
            if not running:
                running["any"] = VLLMServed(model, {"on_unsafe": "stop"}).__enter__().wait()
            return running["any"], {"on_unsafe": policy}
        if policy not in running:
            running[policy] = Served(model, "--on-unsafe", policy, "--served-name", "tiny").__enter__().wait()
        return running[policy], {}

    yield under
    for server in running.values():
        server.__exit__()


def choices(server: tuple[Served, dict], words: str = "knife", guard: dict | None = None, **settings) -> list:
    served, own = server
    asked = {"guard": {"reflections": True} | own | (guard or {})}
    settings = {"temperature": 0} | settings
    found = served.client.chat.completions.create(model="tiny", messages=say(words), extra_body=asked, **settings)
    return found.choices


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_no_draw_gets_another_verdict(start, temperature):
    n = 8 if temperature else 1  # vLLM refuses several answers that are all the same
    found = [
        choice
        for seed in range(8)
        for choice in choices(start("retract"), temperature=temperature, n=n, seed=n * seed, max_tokens=80)
    ]
    shown = collections.Counter((choice.message.content, choice.finish_reason) for choice in found)
    # At 1 it writes broken words at times, and finds the segment around them Safe.
    assert sum(n for (text, _), n in shown.items() if "kill" in text) <= (2 if temperature == 1.0 else 0)
    assert shown[SAFE_PART, "content_filter"] >= len(found) - 4


def test_a_smaller_interval_shows_no_more(start, request):
    """A forced verdict in the middle of a segment may stop it, and does not release what stands before it."""
    if "vllm" in request.node.callspec.id:
        pytest.skip("in vLLM the interval is the operator's")
    for every in (1, 2, 4, 8, 16):
        (choice,) = choices(start("retract"), guard={"reflect_every": every})
        assert (choice.message.content, choice.finish_reason) == (SAFE_PART, "content_filter")


def test_every_ending_is_judged(start):
    """The tail that a limit or a stop text cuts off has been read by the guard, and a verdict is more than either."""
    refusing = start("refuse")
    (whole,) = choices(refusing)
    assert whole.finish_reason == "content_filter" and len(whole.model_extra["guard"]["reflections"]) == 3
    for limits in ({"max_tokens": 44}, {"stop": [" river"]}, {"stop": ["I can't"]}):
        (choice,) = choices(refusing, **limits)
        guard = choice.model_extra["guard"]
        assert (choice.finish_reason, guard["unjudged_tokens"]) == ("content_filter", 0), (limits, choice)
        assert guard["forced"] or len(guard["reflections"]) == 3
    (safe,) = choices(refusing, "river", stop=[" river."])
    assert safe.finish_reason == "stop" and safe.model_extra["guard"]["unjudged_tokens"] == 0


def test_a_withheld_tail_is_no_empty_answer(start):
    (choice,) = choices(start("retract"), "river", max_tokens=30)
    assert choice.finish_reason == "length" and choice.model_extra["guard"]["withheld_tokens"] > 0
