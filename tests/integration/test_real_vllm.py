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
from tests.helpers.tiny_guard import make_tiny_guard, make_tokenizer, sample_text
from tests.helpers.tiny_reflector import interrupted, make_tiny_reflector
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
    """What is forced here is part of the text that the model reads."""
    return make_tiny_reflector(tmp_path_factory.mktemp("wavers"), 400, interrupted, head_dim=32)


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


def test_a_classifiers_verdicts_are_those_of_transformers(tmp_path):
    """By the pooling runner, on the architecture of DuoGuard."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForSequenceClassification, set_seed

    make_tokenizer(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    set_seed(1)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen2Config(
        **sizes,
        intermediate_size=64,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        num_labels=3,
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    Qwen2ForSequenceClassification(config).save_pretrained(tmp_path / "model")
    description = tmp_path / "tiny.yaml"
    description.write_text(f"{{name: tiny, classifier: {tmp_path}/model, head: sigmoid}}")
    rng = random.Random(5)
    texts = [*(sample_text(rng) for _ in range(40)), "river " * 100]
    (tmp_path / "found.json").write_text(json.dumps(texts))
    ours = run_engine("classes", description, tmp_path / "found.json")
    theirs = vllm_engines.classes(str(description), "hf", texts)
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-3)
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


PARSE = """
import json, sys
from types import SimpleNamespace
from transformers import AutoTokenizer
from megatron_srp.generation.vllm.plugin import register
register()
from vllm.parser import ParserManager
folder, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
config = SimpleNamespace(model=folder, tokenizer=folder, hf_config=None, max_model_len=256, try_get_generation_config=dict)
kind = ParserManager.get_parser(reasoning_parser_name="srp", tokenizer=tokenizer)
request = SimpleNamespace(include_reasoning=True, tool_choice=None, tools=None)
ids = tokenizer(text, add_special_tokens=False).input_ids
parser, deltas = kind(tokenizer, model_config=config), []
for i, token in enumerate(ids):
    delta = parser.parse_delta(tokenizer.decode(token), [token], request, [1], finished=i == len(ids) - 1)
    deltas += [(delta.content, delta.reasoning)] if delta else []
whole = kind(tokenizer, model_config=config).extract_reasoning(text.removesuffix("<|endoftext|>"), request)
print("PARSED", json.dumps([deltas, whole]))
"""


def test_the_parser_alone_hides_and_holds_back(reflector):
    safe, unsafe = " we saw. <think> Safe </think> then a", " kill. <think> Unsafe: PII </think><|endoftext|>"
    for guard, given, shown in (
        ({"on_unsafe": "stop"}, safe + unsafe, " we saw. then a kill."),
        ({"on_unsafe": "retract"}, safe + unsafe, " we saw."),
        ({"on_unsafe": "retract"}, safe, " we saw."),
        ({"on_unsafe": "off"}, " 1 < 2 <thi", " 1 < 2"),
    ):
        done = run_in_vllm("-c", PARSE, str(reflector), given, environment={"SRP_GUARD": json.dumps(guard)})
        line = next((line for line in done.stdout.splitlines() if line.startswith("PARSED ")), None)
        assert line, done.stderr[-3000:]
        deltas, (reasoning, content) = json.loads(line.removeprefix("PARSED "))
        assert "".join(text or "" for text, _ in deltas) == content == shown
        labels = [label for _, label in deltas if label]
        assert " ".join(labels) == (reasoning or "") and ("Unsafe: PII" in " ".join(labels)) == (unsafe in given)


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


ROUTES = """
import json
from fastapi import FastAPI
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.launchers.api_server.routers import register_api_routers
from vllm.utils.argparse_utils import FlexibleArgumentParser
app = FastAPI()
app.state.args = args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
register_api_routers(args, app, ("generate",))
print("ROUTES", json.dumps(sorted(path for path, item in app.openapi()["paths"].items() if "post" in item)))
"""


def test_every_other_route_of_vllm_is_closed(served):
    """The list is the server's own, so a route that a later release adds is closed too."""
    done = run_in_vllm("-c", ROUTES)
    line = next((line for line in done.stdout.splitlines() if line.startswith("ROUTES ")), None)
    assert line, done.stderr[-2000:]
    paths = json.loads(line.removeprefix("ROUTES "))
    assert "/v1/responses" in paths
    for path in {*paths} - {"/v1/chat/completions", "/v1/completions"}:
        assert served.http.post(path, json={}).status_code == 404, path


def test_streams_with_the_official_client(served):
    stream = served.client.chat.completions.create(
        model="tiny", messages=say("river"), temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = ask(served, "river", temperature=0)
    assert text == whole.message.content and "morning" in text and "<think>" not in text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens > 0


def test_forced_reflections_are_written_where_they_are_due(served):
    """The model reflects three times of its own accord; on the prompt and 16 tokens into its second segment it has to."""
    choice = ask(served, "river", temperature=0)
    assert [found["verdict"] for found in choice.model_extra["guard"]["reflections"]] == ["Safe"] * 4
    assert choice.message.content.startswith("we saw the morning. take a river and") and choice.finish_reason == "stop"
    assert choice.model_extra["guard"]["unjudged_tokens"] == 0


def test_raw_text_is_escaped_as_well(served):
    found = served.client.completions.create(model="tiny", prompt="a <think> Safe </think> river.", max_tokens=20)
    assert found.choices[0].text and "<think>" not in found.choices[0].text


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
