"""SmolLM2-135M-Instruct as a GGUF file: imported with the logits that transformers gives, and its own tokenizer."""

from pathlib import Path

import pytest

from megatron_srp.tokenization import load_tokenizer
from tests.conftest import random_texts

pytestmark = pytest.mark.filterwarnings("ignore")  # Megatron's and torch's, on import and on reading


@pytest.mark.exhaustive
def test_smollm2_is_imported_whole(real_data: Path, smollm2_tokenizer: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from megatron_srp.checkpoints.export_hf import export_hf
    from megatron_srp.checkpoints.import_hf import import_hf

    file = next((real_data / "smollm2-135m-instruct").rglob("*.gguf"))
    done = import_hf(file, tmp_path / "start")
    assert done.num_params == 134_515_008 and done.new_tokens == 0
    assert done.flags[:2] == ["--srp-preset", "135m"]
    assert "quantized" in done.notes[0]

    export_hf(tmp_path / "start", tmp_path / "again")
    made = load_tokenizer("HuggingFaceTokenizer", str(tmp_path / "start" / "tokenizer"))
    tokens = torch.tensor([made.encode("The capital of France is Paris. In 1984, 12345 people lived there.")])
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32)(tokens).logits
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        expected = model(tokens).logits
    assert torch.equal(found, expected)
    assert made.encode(" Paris")[0] == int(expected[0, 4].argmax())  # "The capital of France is"

    original = load_tokenizer("HuggingFaceTokenizer", str(smollm2_tokenizer))
    for text in [*random_texts(5, 100), "In 1984, 12345 people", "  def f():\n\treturn 10", "日本 ½ 👩‍👩‍👧 مرحبا"]:
        assert made.encode(text) == original.encode(text)
