"""/v1/moderations: verdicts on texts and conversations, with OpenAI's own client."""

import pytest

from tests.helpers.served import Served


@pytest.fixture(scope="module")
def served(tiny_reflector):
    with Served(tiny_reflector, "--served-name", "tiny") as server:
        yield server.wait()


def moderate(served: Served, **body):
    found = served.post(body, "/v1/moderations").json()
    return found["results"] if "results" in found else found["error"]["message"]


def test_texts(served):
    found = served.client.moderations.create(input=["say: river", "say: kill", "say: bomb"], model="tiny")
    assert found.model == "tiny" and found.id.startswith("modr-")
    assert [result.flagged for result in found.results] == [False, True, True]
    (one,) = moderate(served, input=[{"type": "text", "text": "say: "}, {"type": "text", "text": "kill"}])
    assert one["flagged"]
    assert one["categories"] == {"unsafe": True, "controversial": False, "Violent": True, "PII": True}
    assert one["category_scores"]["Violent"] == one["category_scores"]["unsafe"]
    assert one["category_scores"]["unsafe"] > 0.9 > 0.1 > one["category_scores"]["controversial"]


def test_conversations(served):
    """The last turn is judged: an answer by its worst segment, whatever follows it."""
    asked = {"role": "user", "content": "say: knife"}
    (prompt,) = moderate(served, messages=[asked])
    (safe,) = moderate(served, messages=[asked, {"role": "assistant", "content": "we saw the morning."}])
    (unsafe,) = moderate(served, messages=[asked, {"role": "assistant", "content": "we saw the morning. then a kill."}])
    assert [prompt["flagged"], safe["flagged"], unsafe["flagged"]] == [False, False, True]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "pass either input or messages"),
        ({"input": "x", "messages": [{"role": "user", "content": "x"}]}, "pass either input or messages"),
        ({"input": 5}, "cannot be read"),
        ({"input": "x", "guard": {}}, "guard: not supported"),
        ({"input": "x", "model": "other"}, "this server serves 'tiny'"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "begin with the turn that the answer replies to"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]}, "no text to judge"),
        ({"input": "river " * 400}, "shorten it"),
    ],
)
def test_mistakes(served, body, said):
    assert said in moderate(served, **body)
