"""SmolLM2's real weights out of their GGUF file, by way of the parts in which it travels."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_weights_travel_and_speak(real_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF is read with the package gguf")
    files = sorted((real_data / "smollm2-135m-instruct").rglob("*.gguf"))
    if not files:
        pytest.skip(f"no GGUF of SmolLM2 in {real_data}")

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from megatron_srp.benchmarks.gpu import real_model

    parts = real_model.split(files[0], tmp_path / "parts")
    assert all(part.stat().st_size < 64 << 20 for part in parts)
    real_model.make(tmp_path / "parts", tmp_path)
    flags = json.loads((tmp_path / "flags.json").read_text())
    assert flags[:2] == ["--srp-preset", "135m"]
    assert flags[flags.index("--rotary-base") + 1] == "100000"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert model.config.rms_norm_eps == 1e-5
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert len(tokenizer("In 1984", add_special_tokens=False).input_ids) == 6  # digits stand alone
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].size(1) :]
    assert "Paris" in tokenizer.decode(answer)
