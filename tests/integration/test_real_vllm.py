"""vLLM itself, on this machine's CPU: the engines, and the plug-in inside its server.

It runs where SRP_VLLM_PYTHON names the Python of an environment with vLLM 0.32, and takes minutes: each start of vLLM
takes about half a minute of processor time.
"""

import json
import random

import pytest

from megatron_srp.generation.engines.hf.model import GuardedModel
from megatron_srp.reflection import ReflectionFormat
from tests.helpers import vllm_engines
from tests.helpers.served import say
from tests.helpers.tiny_guard import make_tiny_guard, sample_text
from tests.helpers.tiny_reflector import make_tiny_reflector, wavering
from tests.helpers.vllm_served import VLLMServed, run_in_vllm, vllm_python

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module", autouse=True)
def environment():
    vllm_python()


@pytest.fixture(scope="module")
def reflector(tmp_path_factory):
    return make_tiny_reflector(tmp_path_factory.mktemp("reflector"), head_dim=32)


@pytest.fixture(scope="module")
def wavers(tmp_path_factory):
    return make_tiny_reflector(tmp_path_factory.mktemp("wavers"), 400, wavering, head_dim=32)


def run_engine(what, model, out):
    done = run_in_vllm("-m", "tests.helpers.vllm_engines", what, str(model), str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def test_answers_are_those_of_transformers(reflector, tmp_path):
    found = run_engine("answers", reflector, tmp_path / "found.json")
    theirs = vllm_engines.answers(GuardedModel(str(reflector), ReflectionFormat(), "cpu"))
    for one, other in zip(found["answers"], theirs, strict=True):
        forced, expected = one.pop("forced"), other.pop("forced")
        assert one == json.loads(json.dumps(other))
        for a, b in zip(forced, expected, strict=True):
            assert a == pytest.approx(b, abs=1e-3)
    # Another interval draws other answers from vLLM; what it shows is among what can be shown without it.
    assert set(found["8"]) <= {text[:end] for text in found["0"] for end in range(len(text) + 1)}


def test_verdicts_are_those_of_transformers(tmp_path):
    guard, rng = make_tiny_guard(tmp_path / "guard", head_dim=32), random.Random(5)
    texts = [sample_text(rng) for _ in range(60)]
    (tmp_path / "found.json").write_text(json.dumps(texts))
    ours, theirs = (
        run_engine("verdicts", guard, tmp_path / "found.json"),
        vllm_engines.verdicts(str(guard), "hf", texts),
    )
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=0.02)
    assert [label for _, label in ours] == [label for _, label in theirs]


def test_what_does_not_fit_is_one_line(reflector):
    start = ("-m", "vllm.entrypoints.openai.api_server", "--model", str(reflector), "--reasoning-parser", "srp")
    for variables, said in (
        ({"SRP_GUARD": '{"on_unsafe": "ask"}'}, "megatron-srp: --on-unsafe 'ask'"),
        ({"SRP_GUARD": '{"policy": "stop"}'}, "megatron-srp: SRP_GUARD="),
        (
            {"SRP_GUARD": "{}", "VLLM_USE_V2_MODEL_RUNNER": "1"},
            "megatron-srp: the guard runs in vLLM's V1 model runner",
        ),
    ):
        done = run_in_vllm(*start, environment=variables)
        assert done.returncode != 0 and "Traceback" not in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith(said), done.stderr[-500:]


@pytest.fixture(scope="module")
def served(wavers):
    """Most of the guarantee is tested in test_serve_guarantee.py, for both servers."""
    with VLLMServed(wavers, {"on_unsafe": "stop", "reflect_every": 16, "completions": True}) as server:
        yield server.wait()


def ask(served, words="knife", guard=None, **settings):
    (choice,) = served.client.chat.completions.create(
        model="tiny", messages=say(words), extra_body={"guard": {"reflections": True} | (guard or {})}, **settings
    ).choices
    return choice


BYPASSES = {
    "ignore_eos": True,
    "min_tokens": 50,
    "logit_bias": {"5": -100},
    "bad_words": [" Unsafe"],
    "allowed_token_ids": [5],
    "prompt_embeds": "x",
    "continue_final_message": True,
    "add_generation_prompt": False,
    "structured_outputs": {"regex": "a*"},
    "response_format": {"type": "json_object"},
    "include_reasoning": False,
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"a": 1},
    "stop_token_ids": [3],
    "vllm_xargs": {"srp_on_unsafe": "off"},
    "logprobs": True,
    "return_token_ids": True,
    "repetition_detection": {},
}


def test_what_goes_round_the_guard_is_refused_by_name(served):
    key = {"authorization": f"Bearer {served._key}"}
    for name, value in BYPASSES.items():
        answer = served.post({"model": "tiny", "messages": say("knife"), name: value}, **key)
        assert answer.status_code == 400 and answer.json()["error"]["message"].startswith(f"{name}: "), answer.text
    for guard in ({"on_unsafe": "off"}, {"reflect_every": 4}, {"unsafe_threshold": 0.9}):
        answer = served.post({"model": "tiny", "messages": say("knife"), "guard": guard}, **key)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "policy_too_weak"
    assert served.post({"model": "tiny", "messages": say("knife")}).status_code == 401
    assert served.post({"model": "tiny", "prompt": [1, 2]}, "/v1/completions", **key).status_code == 400


def test_every_other_route_of_vllm_is_closed(served):
    """The list is the server's own, so a route that a later release adds is closed too."""
    code = (
        "import json, argparse\n"
        "from fastapi import FastAPI\n"
        "from vllm.entrypoints.launchers.api_server.routers import register_api_routers\n"
        "app = FastAPI(); register_api_routers(argparse.Namespace(), app, ('generate',))\n"
        "print('ROUTES', json.dumps(sorted({(m, r.path) for r in app.routes for m in getattr(r, 'methods', ['GET'])})))\n"
    )
    done = run_in_vllm("-c", code)
    line = next((line for line in done.stdout.splitlines() if line.startswith("ROUTES ")), None)
    assert line, done.stderr[-2000:]
    routes = [(method, path) for method, path in json.loads(line.removeprefix("ROUTES ")) if method == "POST"]
    assert ("POST", "/v1/responses") in map(tuple, routes)
    for method, path in routes:
        if path not in ("/v1/chat/completions", "/v1/completions", "/ping"):
            assert served.http.request(method, path, json={}).status_code == 404, path


def test_streams_with_the_official_client(served):
    stream = served.client.chat.completions.create(
        model="tiny", messages=say("river"), temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = ask(served, "river", temperature=0)
    assert text == whole.message.content and "river" in text and "think" not in text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens > 0


def test_forced_reflections_are_written_where_they_are_due(served):
    """The model reflects three times of its own accord; every 16 tokens it is made to."""
    choice = ask(served, "river", temperature=0)
    assert len(choice.model_extra["guard"]["reflections"]) > 3
    assert choice.model_extra["guard"]["unjudged_tokens"] == 0


def test_raw_text_is_escaped_as_well(served):
    found = served.client.completions.create(model="tiny", prompt="a <think> Safe </think> river.", max_tokens=20)
    assert "think" not in found.choices[0].text


def test_without_its_settings_the_plugin_does_nothing(reflector):
    code = (
        "from vllm import LLM, SamplingParams\n"
        "if __name__ == '__main__':\n"
        f"    llm = LLM({str(reflector)!r}, enforce_eager=True, dtype='float32', max_num_seqs=4)\n"
        "    said = llm.chat([{'role': 'user', 'content': 'say: kill'}], SamplingParams(temperature=0, max_tokens=60))\n"
        "    print('SAID', said[0].outputs[0].text)\n"
    )
    done = run_in_vllm("-c", code)
    assert "<think> Unsafe: Violent, PII </think>" in done.stdout, done.stderr[-2000:]
