"""`srp serve --engine vllm` and `srp annotate --guard-engine vllm` as a user runs them, where SRP_VLLM_PYTHON names the
Python of an environment with vLLM 0.32."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from megatron_srp.benchmarks.real.data import find_gguf
from megatron_srp.generation.engines.hf.model import GuardedModel
from megatron_srp.generation.engines.request import Options, Sampling
from megatron_srp.generation.guard.policy import GuardPolicy
from tests.helpers.commands import srp
from tests.helpers.served import KEY, say
from tests.helpers.tiny_guard import make_tiny_guard, sample_text
from tests.helpers.tiny_reflector import make_tiny_reflector
from tests.helpers.vllm_served import ServedByEngine, run_in_vllm, vllm_python

pytestmark = pytest.mark.exhaustive
TURNS = [{"role": "user", "content": "Name the capital of France."}]
TOKENS, EVERY = 24, 8


@pytest.fixture(scope="module", autouse=True)
def environment() -> None:
    vllm_python()


@pytest.fixture(scope="module")
def smollm2(real_data: Path, smollm2_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real 135M model, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    folder, file = tmp_path_factory.mktemp("model") / "smollm2", find_gguf(real_data)
    assert file
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    del read.config.quantization_config  # or transformers refuses to save it
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    shutil.copytree(smollm2_tokenizer, folder, dirs_exist_ok=True)
    return folder


def test_the_real_model_answers_as_with_transformers(smollm2: Path) -> None:
    flags = ("--on-unsafe", "off", "--reflect-every", str(EVERY), "--dtype", "float32")
    fits = ("--engine-option", "max_model_len=512", "--engine-option", "max_num_seqs=4")
    asked: dict[str, Any] = {"model": "smollm2", "messages": TURNS, "max_tokens": TOKENS, "temperature": 0}
    with ServedByEngine(smollm2, *flags, *fits, key=KEY) as server:
        client = server.wait().client
        (choice,) = client.chat.completions.create(**asked, extra_body={"guard": {"reflections": True}}).choices
        pieces = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == choice.message.content and "Paris" in text

    model = GuardedModel(str(smollm2), device="cpu", dtype="float32")
    request = model.chat(TURNS, Options(GuardPolicy("off", reflect_every=EVERY), Sampling(), TOKENS))
    (expected,) = model.generator.generate([request])
    assert text == expected.text
    guard: Any = choice.model_extra and choice.model_extra["guard"]
    for one, other in zip(guard["forced"], expected.forced, strict=True):
        assert list(one.values()) == pytest.approx(list(other), abs=1e-3)


def test_an_unsafe_segment_is_not_shown(tmp_path: Path) -> None:
    """By a model that reflects, asked with OpenAI's client, whole and as a stream. A copy of it judges the prompts."""
    model = make_tiny_reflector(tmp_path / "tiny", head_dim=32)
    flags = ("--on-unsafe", "retract", "--dtype", "float32", "--prompt-verdicts-by", str(model))
    with ServedByEngine(model, *flags, key=KEY) as server:
        client = server.wait().client
        for words, shown, end in (
            ("river", "we saw the morning. then a river.", "stop"),
            ("knife", "we saw the morning.", "content_filter"),
            ("kill", "", "content_filter"),
        ):
            asked: dict[str, Any] = {"model": "tiny", "messages": say(words), "temperature": 0}
            (choice,) = client.chat.completions.create(**asked).choices
            assert (choice.message.content or "", choice.finish_reason) == (shown, end)
            pieces = [piece.choices[0] for piece in client.chat.completions.create(**asked, stream=True)]
            assert "".join(piece.delta.content or "" for piece in pieces) == shown
            assert pieces[-1].finish_reason == end


def test_verdicts_of_a_corpus_are_those_of_transformers(write_jsonl: Any, tmp_path: Path) -> None:
    guard, rng = make_tiny_guard(tmp_path / "guard", head_dim=32), random.Random(5)
    corpus = write_jsonl([sample_text(rng) for _ in range(60)])
    common = ("annotate", "--input", corpus, "--guard", "qwen3guard", "--guard-model", guard)
    options = [f"--guard-option={option}" for option in ("dtype=float32", "max_num_seqs=32", "batch_tokens=2048")]
    theirs = tmp_path / "vllm"
    flags = [*common, "--guard-engine", "vllm", *options, "--store", theirs]
    done = run_in_vllm("-m", "megatron_srp", *map(str, flags))
    assert done.returncode == 0, done.stderr[-3000:]
    ours = tmp_path / "hf"
    assert srp(*common, "--store", ours).returncode == 0
    found, expected = (srp("verdicts", store, "list", "--limit", 0).stdout for store in (theirs, ours))
    assert found == expected and "Unsafe" in found and "Safe" in found
