"""GGUF files: the weights and logits that transformers loads, the tokenizer that the file describes, and no others."""

import json
import shutil

import pytest

from megatron_srp.errors import InputError, UsageError
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import random_texts

pytestmark = pytest.mark.filterwarnings("ignore")  # Megatron's and torch's, on import and on reading
SIZES = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def write_gguf(path, tokenizer_json, *, split="smollm", tied=True, kind="F32", more=(), tensors=()):
    """A random Llama as llama.cpp's converter writes one."""
    import gguf
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=tied, initializer_range=0.2)
    model = LlamaForCausalLM(config)
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "context_length": 128,
        "embedding_length": 32,
        "feed_forward_length": 64,
        "block_count": 2,
        "head_count": 4,
        "head_count_kv": 2,
    }.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(600)
    spec = json.loads(tokenizer_json.read_text())
    vocab = sorted(
        spec["model"]["vocab"] | {t["content"]: t["id"] for t in spec["added_tokens"]},
        key=(spec["model"]["vocab"] | {t["content"]: t["id"] for t in spec["added_tokens"]}).get,
    )
    special = {t["content"] for t in spec["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(vocab)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in vocab])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]])
    writer.add_eos_token_id(vocab.index("<|endoftext|>"))
    for add, *value in more:
        getattr(writer, add)(*value)
    for name, tensor in model.state_dict().items():
        data = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # the other order of the rotated pairs
            heads = HEADS["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            data = data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        if name == "lm_head.weight" and tied:
            continue
        quantized = gguf.GGMLQuantizationType[kind]
        plain = data.ndim == 1 or kind == "F32"
        content = data.astype(np.float32) if plain else gguf.quants.quantize(data, quantized)
        writer.add_tensor(NAMES(name), content, raw_dtype=None if plain else quantized)
    for name, content in tensors:
        writer.add_tensor(name, content)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def NAMES(name: str) -> str:
    import gguf

    return gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2).get_name(name, (".weight",))


def logits_of(path, **options):
    import torch
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
        return model(torch.tensor([[5, 17, 300, 42, 9, 511, 77, 12]])).logits


@pytest.mark.parametrize(("tied", "kind"), [(True, "F32"), (False, "F16"), (True, "Q8_0")])
def test_an_import_has_the_logits_that_transformers_gives(tied, kind, tokenizer_models, tmp_path):
    import torch

    from megatron_srp.checkpoints.export_hf import export_hf
    from megatron_srp.checkpoints.import_hf import import_hf

    tokenizer_json = tokenizer_models["smollm2"][1] / "tokenizer.json"
    file = write_gguf(tmp_path / "model.gguf", tokenizer_json, tied=tied, kind=kind)
    done = import_hf(file, tmp_path / "start")
    export_hf(tmp_path / "start", tmp_path / "again")
    assert torch.equal(logits_of(tmp_path / "again"), logits_of(tmp_path, gguf_file=file.name))
    assert ("--untie-embeddings-and-output-weights" in done.flags) != tied
    assert bool(done.notes) == (kind == "Q8_0") and (not done.notes or "quantized (Q8_0)" in done.notes[0])
    assert done.flags[done.flags.index("--tokenizer-model") + 1] == str(tmp_path / "start" / "tokenizer")


@pytest.mark.parametrize(("split", "model"), [("smollm", "smollm2"), ("gpt-2", "gpt2"), ("llama-bpe", "llama3")])
def test_its_tokenizer_splits_texts_as_the_file_says(split, model, tokenizer_models, tmp_path):
    from megatron_srp.checkpoints.gguf_file import write_tokenizer

    kind, folder = tokenizer_models[model]
    file = write_gguf(tmp_path / "model.gguf", folder / "tokenizer.json", split=split)
    made, original = (
        load_tokenizer(kind, str(write_tokenizer(file, tmp_path / "made"))),
        load_tokenizer(kind, str(folder)),
    )
    for text in [*random_texts(3, 50), "In 1984, 12345 people", "  def f():\n\treturn 10", "I'LL <|endoftext|> x"]:
        assert made.encode(text) == original.encode(text)
    assert made.eos_id == original.eos_id


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split": "tekken"}, "splits words as 'tekken'.*--tokenizer-model"),
        ({"more": [("add_uint16", "split.count", 3)]}, "one of 3 parts"),
        ({"more": [("add_string", "llama.rope.scaling.type", "yarn")]}, "scaled rotary positions"),
        ({"tensors": ["rope_freqs.weight"]}, "scaled rotary positions"),
    ],
)
def test_what_transformers_would_read_in_part_is_refused(changes, said, tokenizer_models, tmp_path):
    import numpy as np

    from megatron_srp.checkpoints.import_hf import import_hf

    if "tensors" in changes:
        changes = {"tensors": [(name, np.ones(4, np.float32)) for name in changes["tensors"]]}
    file = write_gguf(tmp_path / "model.gguf", tokenizer_models["gpt2"][1] / "tokenizer.json", **changes)
    with pytest.raises(InputError, match=said):
        import_hf(file, tmp_path / "start")
    assert not (tmp_path / "start").exists()


@pytest.mark.parametrize("size", [4, 30, 5000])
def test_a_damaged_file_is_one_line(size, tokenizer_models, tmp_path):
    from megatron_srp.checkpoints.import_hf import import_hf

    file = write_gguf(tmp_path / "model.gguf", tokenizer_models["gpt2"][1] / "tokenizer.json")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match="cannot be read as GGUF") as caught:
        import_hf(file, tmp_path / "start")
    assert "\n" not in str(caught.value)


def test_without_the_package(tokenizer_models, tmp_path, monkeypatch):
    from megatron_srp.checkpoints.import_hf import import_hf

    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UsageError, match=r"pip install 'megatron-srp\[gguf\]'"):
        import_hf(tmp_path / "model.gguf", tmp_path / "start")


def test_another_tokenizer_can_be_given(tokenizer_models, tmp_path):
    from megatron_srp.checkpoints.import_hf import import_hf

    file = write_gguf(tmp_path / "model.gguf", tokenizer_models["gpt2"][1] / "tokenizer.json", split="tekken")
    own = shutil.copytree(tokenizer_models["gpt2"][1], tmp_path / "own")
    done = import_hf(file, tmp_path / "start", tokenizer=str(own))
    assert str(own) in done.flags and not (tmp_path / "start" / "tokenizer").exists()
