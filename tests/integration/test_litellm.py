"""LiteLLM as a client of both servers. It pins other packages than ours, so it has an environment of its own, whose
Python SRP_LITELLM_PYTHON names (`pip install litellm` is all that it needs)."""

import json
import os
import subprocess

import pytest

from tests.helpers.served import KEY, Served
from tests.helpers.tiny_reflector import make_tiny_reflector
from tests.helpers.vllm_served import VLLMServed

ASK = """
import json, sys, litellm
from litellm.exceptions import BadRequestError
base, key = sys.argv[1:]
def ask(word, **more):
    said = [{"role": "user", "content": f"say: {word}"}]
    return litellm.completion("openai/tiny", said, api_base=base, api_key=key, temperature=0, max_tokens=60, **more)
found = {}
for word in ("river", "knife"):
    whole, pieces = ask(word).choices[0], [piece.choices[0] for piece in ask(word, stream=True)]
    streamed = "".join(piece.delta.content or "" for piece in pieces)
    found[word] = [whole.message.content.strip(), whole.finish_reason, streamed.strip(), pieces[-1].finish_reason]
try:
    ask("river", response_format={"type": "json_object"})
except BadRequestError as error:
    found["refused"] = "response_format: not supported" in str(error)
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def python() -> str:
    found = os.environ.get("SRP_LITELLM_PYTHON")
    if not found:
        pytest.skip("SRP_LITELLM_PYTHON does not name the Python of an environment with LiteLLM")
    return found


@pytest.fixture(scope="module")
def model(python, tmp_path_factory):
    return make_tiny_reflector(tmp_path_factory.mktemp("reflector"), head_dim=32)


def check(python: str, served: Served) -> None:
    own = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run([python, "-c", ASK, served.url, KEY], capture_output=True, text=True, env=own, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-2000:]
    safe, part = "we saw the morning. then a river.", "we saw the morning."
    expected = {"river": [safe, "stop"] * 2, "knife": [part, "content_filter"] * 2, "refused": True}
    assert json.loads(lines[0].removeprefix("FOUND ")) == expected


def test_srp_serve(python, model):
    with Served(model, "--on-unsafe", "retract", "--served-name", "tiny", key=KEY) as served:
        check(python, served.wait())


@pytest.mark.exhaustive
def test_vllm_serve(python, model):
    with VLLMServed(model, {"on_unsafe": "retract"}) as served:
        check(python, served.wait())
