"""`srp serve` as its operator sees it: keys, the audit log, metrics, a change of keys, and the end."""

import json
import signal
import time

import pytest

from tests.helpers.endless import make_endless
from tests.helpers.served import Served, say, until

KEYS = """
- {name: strict, key: sk-strict-1, policy: {on_unsafe: retract}, max_answers: 2}
- {name: raw, key: sk-raw-1234, completions: true, allow_weaker: true, max_new_tokens: 5}
"""
CHAT = {"model": "tiny", "messages": say("knife")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("operation")


@pytest.fixture(scope="module")
def served(tiny_reflector, folder):
    (folder / "keys.yaml").write_text(KEYS)
    flags = ["--keys", folder / "keys.yaml", "--audit-log", folder / "audit.jsonl", "--served-name", "tiny"]
    with Served(tiny_reflector, *map(str, flags), key="sk-of-the-flags") as server:
        yield server.wait()


def post(served: Served, key: str, body: dict, path: str = "/v1/chat/completions", **headers):
    return served.post(body, path, Authorization=f"Bearer {key}", **headers)


def test_each_key_has_its_own_guard_and_limits(served):
    (choice,) = post(served, "sk-strict-1", CHAT).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("we saw the morning.", "content_filter")
    (choice,) = post(served, "sk-of-the-flags", CHAT).json()["choices"]
    assert choice["message"]["content"] == "we saw the morning. then a kill."
    found = post(served, "sk-strict-1", CHAT | {"n": 3})
    assert (found.status_code, found.json()["error"]["code"]) == (429, "queue_full")
    text = {"model": "tiny", "prompt": "we saw", "max_tokens": 9}
    assert post(served, "sk-raw-1234", text, "/v1/completions").json()["usage"]["completion_tokens"] <= 5
    refused = post(served, "sk-strict-1", text, "/v1/completions")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "completions_off")
    assert served.http.get("/health").json() == {"status": "ok"}  # how busy it is, is for those with a key


def test_prompts_are_scored_for_evaluations(served):
    """As lm-eval asks for log-likelihoods: of token ids, with a token that it never looks at."""
    text = "we saw the morning"
    ids = post(served, "sk-raw-1234", {"prompt": text}, "/tokenize").json()["tokens"]
    scored = {"model": "tiny", "echo": True, "logprobs": 2, "max_tokens": 1, "temperature": 0}

    def score(prompt):
        return post(served, "sk-raw-1234", scored | {"prompt": prompt}, "/v1/completions").json()

    (by_ids,), (by_text,) = score(ids)["choices"], score(text)["choices"]
    assert by_ids["text"] == by_text["text"] == text
    found = by_ids["logprobs"]
    assert len(found["tokens"]) == len(ids) + 1 and "".join(found["tokens"]) == text
    assert found["token_logprobs"][0] is None and all(value <= 0 for value in found["token_logprobs"][1:-1])
    assert found["text_offset"][1] == len(found["tokens"][0]) and len(found["top_logprobs"][1]) <= 2
    many = score([ids, ids[:2]])["choices"]
    assert many[0]["logprobs"] == found and len(many[1]["logprobs"]["tokens"]) == 3
    assert "the prompt has token 464" in score([464, 1560])["error"]["message"]


def test_what_is_written_down(served, folder):
    found = post(served, "sk-strict-1", CHAT, **{"X-Request-Id": "trace-7"})
    assert found.headers["x-request-id"] == "trace-7"
    lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["request_id"] == "trace-7"]
    assert (line["client"], line["stop_reason"], line["policy"]["on_unsafe"]) == ("strict", "unsafe", "retract")
    assert line["reflections"][-1]["categories"] == ["Violent", "PII"] and "morning" not in json.dumps(lines)
    assert served.http.get("/metrics").status_code == 401
    text = served.http.get("/metrics", headers={"Authorization": "Bearer sk-strict-1"}).text
    assert 'srp_answers_total{client="strict",ended="unsafe"}' in text
    assert 'srp_requests_total{path="/v1/chat/completions",status="429"} 1.0' in text


def test_keys_change_without_a_restart(served, folder):
    path = folder / "keys.yaml"
    assert post(served, "sk-new-5678", {}).status_code == 401
    path.write_text("- {name: new, key: sk-new-5678}\n")
    served.process.send_signal(signal.SIGHUP)
    until(lambda: post(served, "sk-new-5678", {}).status_code == 400)
    assert post(served, "sk-strict-1", {}).status_code == 401
    path.write_text("- {name: new")
    served.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)  # for it to do what it should not
    assert post(served, "sk-new-5678", {}).status_code == 400  # the old keys stay valid


def test_a_server_that_drains_says_so(tiny_reflector, tmp_path):
    model = make_endless(tmp_path, tiny_reflector)
    flags = ["--grace", "600", "--on-unsafe", "off", "--max-new-tokens", "90000", "--served-name", "tiny"]
    with Served(model, *flags) as server:
        stream = server.wait().client.chat.completions.create(model="tiny", messages=say("x"), stream=True)
        next(iter(stream))
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.http.get("/ready").status_code == 503)
        assert server.http.get("/health").json() == {"status": "closing", "running": 1, "waiting": 0}
        found = server.post(CHAT)
        assert (found.status_code, found.json()["error"]["code"]) == (503, "closing")
        assert next(iter(stream)).choices  # while the running answer continues
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0
