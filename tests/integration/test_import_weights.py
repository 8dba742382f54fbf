"""An import holds the weights that transformers loads from the same folder, whatever other files are there."""

import json
import shutil
from pathlib import Path

import pytest

from megatron_srp.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # Megatron's and torch's, on import and on reading
INDEX = "model.safetensors.index.json"


def save(tensors: dict, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"format": "pt"})


def load(path: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.fixture(scope="module")
def whole(tokenizer_models, tmp_path_factory) -> Path:
    """An untied model in one file."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "whole"
    torch.manual_seed(0)
    sizes = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.2)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_models["gpt2"][1] / name, folder)
    return folder


def split_in_two(folder: Path) -> dict[str, str]:
    """Cut the model into two files and an index; which tensor is in which file."""
    tensors = load(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (i >= len(names) // 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


def say_tied(folder: Path, tied: bool = True) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))


def remains_of_another_upload(folder: Path) -> None:
    tensors = load(folder / "model.safetensors")
    split_in_two(folder)
    save({name: tensor * 0 for name, tensor in tensors.items()}, folder / "model-00002-of-00003.safetensors")


def an_index_next_to_a_whole_file(folder: Path) -> None:
    tensors = load(folder / "model.safetensors")
    split_in_two(folder)
    save({name: tensor * 2 for name, tensor in tensors.items()}, folder / "model.safetensors")


def consolidated_files(folder: Path) -> None:
    save(
        {"layers.0.attention.wq.weight": load(folder / "model.safetensors")["lm_head.weight"]},
        folder / "consolidated.safetensors",
    )


def an_adapter(folder: Path) -> None:
    save(
        {"base_model.model.q_proj.lora_A.weight": load(folder / "model.safetensors")["model.norm.weight"]},
        folder / "adapter_model.safetensors",
    )


def a_head_that_is_not_tied(folder: Path) -> None:
    say_tied(folder)


def a_tied_head_that_is_saved_too(folder: Path) -> None:
    tensors = load(folder / "model.safetensors")
    save(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    say_tied(folder)


def an_untied_head_that_is_a_copy(folder: Path) -> None:
    a_tied_head_that_is_saved_too(folder)
    say_tied(folder, False)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (
            remains_of_another_upload,
            "not read, since model.safetensors.index.json defines the model: model-00002-of-00003",
        ),
        (
            an_index_next_to_a_whole_file,
            "since model.safetensors defines the model: model-00001-of-00002.safetensors, model-00002",
        ),
        (consolidated_files, "consolidated.safetensors"),
        (an_adapter, "adapter_model.safetensors; merge an adapter first"),
        (a_head_that_is_not_tied, "imported untied"),
        (a_tied_head_that_is_saved_too, None),
        (an_untied_head_that_is_a_copy, None),
        (split_in_two, None),
    ],
)
def test_an_import_has_the_logits_that_transformers_gives(change, note, whole: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from megatron_srp.checkpoints.export_hf import export_hf
    from megatron_srp.checkpoints.import_hf import import_hf

    model = shutil.copytree(whole, tmp_path / "model")
    change(model)
    done = import_hf(model, tmp_path / "start")
    export_hf(tmp_path / "start", tmp_path / "again")
    tokens = torch.tensor([[5, 17, 300, 42, 9, 599, 77, 12]])
    with torch.no_grad():
        expected, found = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(tokens).logits
            for path in (model, tmp_path / "again")
        )
    assert torch.equal(found, expected)
    assert ("--untie-embeddings-and-output-weights" in done.flags) == (change is not a_tied_head_that_is_saved_too)
    if note is None:
        assert not done.notes
    else:
        (line,) = done.notes
        assert note in line


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "lost.safetensors"}}', "names lost.safetensors, which is missing"),
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": ["a"]}', "not an index of weights"),
        ('{"weight_map": {"a": 1}}', "not an index of weights"),
        ('{"weight_map": {"a": "\\u0000"}}', "fetch it again"),
        ("[]", "not an index of weights"),
        ("{", "not an index of weights"),
        (None, "no model.safetensors or model.safetensors.index.json"),
    ],
)
def test_a_folder_that_names_no_weights(index, message, whole: Path, tmp_path: Path) -> None:
    from megatron_srp.checkpoints.import_hf import import_hf

    model = shutil.copytree(whole, tmp_path / "model")
    (model / "model.safetensors").rename(model / "weights.safetensors")
    if index is not None:
        (model / INDEX).write_text(index)
    with pytest.raises(InputError, match=message):
        import_hf(model, tmp_path / "start")
    assert not (tmp_path / "start").exists()
