"""Out of Megatron and back: any layout to a Hugging Face folder, and a folder to any layout."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.corpus import EOS
from tests.distributed.jobs import REPOSITORY, Corpus, Forkserver, environment

TP2 = ["--tensor-model-parallel-size", "2"]
PP2 = ["--pipeline-model-parallel-size", "2"]
HYBRID = ["--srp-model-class", "hybrid"]
MHA = ["--num-query-groups", "4"]
UNTIED = ["--untie-embeddings-and-output-weights"]
# ranks, flags of the layout, flags of the model
LAYOUTS = {
    "TP1": (1, [], []),
    "TP2, padded vocabulary": (2, [*TP2, "--make-vocab-size-divisible-by", "100"], []),
    "TP2 x PP2, MHA": (4, [*TP2, *PP2], MHA),
    "interleaved PP2, untied": (2, [*PP2, "--num-virtual-stages-per-pipeline-rank", "2"], UNTIED),
    "distributed optimizer, untied MHA": (2, ["--use-distributed-optimizer"], [*UNTIED, *MHA]),
}
STEPS = ["--train-iters", "2", "--save-interval", "2"]

pytestmark = pytest.mark.filterwarnings("ignore")  # Megatron's and torch's, on import and on reading


def save(forkserver: Forkserver, ranks: int, argv: list[str], folder: Path) -> Path:
    """Run a job that saves into `folder`."""
    finished = forkserver.run(ranks, [*argv, "--save", str(folder)])
    assert finished.codes == [0] * ranks, finished.log
    return folder


def megatron_logits(forkserver: Forkserver, argv: list[str], folder: Path):
    """Token ids [b, s] and logits [b, s, v] of the first micro-batch after loading a checkpoint."""
    import torch

    file = folder / "logits.pt"
    argv = [str(file), *argv, "--train-iters", "3", "--override-opt-param-scheduler"]
    finished = forkserver.run(1, argv, module="tests.distributed.record_logits")
    assert finished.codes == [0], finished.log
    recorded = torch.load(file)
    return recorded["tokens"], recorded["logits"]


def hf_logits(folder: Path, tokens):
    """The exported model's logits, and the model."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(tokens).logits, model


@pytest.fixture(scope="module")
def exported(corpus: Corpus, forkserver: Forkserver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `checkpoints` of one process and `model`, exported from it."""
    from megatron_srp.checkpoints.export_hf import export_hf

    folder = tmp_path_factory.mktemp("exported")
    save(forkserver, 1, [*corpus.flags, *STEPS], folder / "checkpoints")
    export_hf(folder / "checkpoints", folder / "model")
    return folder


IN_MAKE_TEST = ("TP2, padded vocabulary", "TP2 x PP2, MHA", "distributed optimizer, untied MHA")


@pytest.mark.parametrize(
    "layout", [name if name in IN_MAKE_TEST else pytest.param(name, marks=pytest.mark.exhaustive) for name in LAYOUTS]
)
def test_logits_equal_megatrons(layout: str, corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    from megatron_srp.checkpoints.export_hf import export_hf

    ranks, layout_flags, model_flags = LAYOUTS[layout]
    argv = [*corpus.flags, *model_flags]
    checkpoints = save(forkserver, ranks, [*argv, *STEPS, *layout_flags], tmp_path / "checkpoints")
    load = ["--load", str(checkpoints), "--no-load-optim"]
    tokens, expected = megatron_logits(forkserver, [*argv, *load], tmp_path)

    done = export_hf(checkpoints, tmp_path / "model", max_shard_bytes=10**6)
    assert done.padding_rows == (144 if "padded" in layout else 0)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 3
    logits, model = hf_logits(tmp_path / "model", tokens)
    assert logits.shape[-1] == 256  # the padding is cut
    assert float((logits - expected[..., :256]).abs().max()) < 1e-5
    assert float(logits.abs().max()) > 0.5  # these are no zeros
    assert model.config.tie_word_embeddings == ("untied" not in layout)
    assert model.num_parameters() == done.num_params


def test_bf16_is_exported_as_saved(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from megatron_srp.checkpoints.export_hf import export_hf
    from tests.distributed.checkpoints import load_tensors

    checkpoints = save(forkserver, 2, [*corpus.flags, *STEPS, *TP2, "--bf16"], tmp_path / "checkpoints")
    assert export_hf(checkpoints, tmp_path / "model").dtype == "bfloat16"
    export_hf(checkpoints, tmp_path / "fp32", dtype="float32")
    ours, wide = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "fp32"))
    embedding = load_tensors(checkpoints, 2)["embedding.word_embeddings.weight"]
    assert torch.equal(ours["model.embed_tokens.weight"], embedding)
    assert all(torch.equal(tensor.float(), wide[name]) for name, tensor in ours.items())


def test_it_generates_and_ends_at_eos(exported: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(exported / "model")
    tokenizer = AutoTokenizer.from_pretrained(exported / "model")
    prompt = tokenizer("w1 w2 w3", return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**prompt, max_new_tokens=8)
        likely = model.generate(**prompt, max_new_tokens=8, sequence_bias={(EOS,): 100.0})
    assert ids.shape[1] == 11
    assert likely[0].tolist() == [*prompt["input_ids"][0].tolist(), EOS]
    assert model.generation_config.eos_token_id == EOS == tokenizer.eos_token_id
    assert tokenizer.decode(ids[0]).startswith("w1 w2 w3 w")


def test_an_import_is_what_was_exported(exported: Path, forkserver: Forkserver, tmp_path: Path) -> None:
    """Into Megatron and out again: at once, and after a step, of another layout or a HybridModel, that changes nothing."""
    from megatron_srp.checkpoints.export_hf import export_hf
    from megatron_srp.checkpoints.import_hf import import_hf

    corpus_flags = ["--srp-preset", "debug", "--mock-data", "--seq-length", "128"]
    done = import_hf(exported / "model", tmp_path / "start")
    export_hf(tmp_path / "start", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["rope_theta"] == 10_000.0  # for transformers 4
    still = ["--lr", "0", "--weight-decay", "0", "--train-iters", "1", "--save-interval", "1"]
    save(forkserver, 4, [*corpus_flags, *done.flags, *TP2, *PP2, *still], tmp_path / "trained")
    export_hf(tmp_path / "trained", tmp_path / "later")
    save(forkserver, 2, [*corpus_flags, *done.flags, *TP2, *HYBRID, *still], tmp_path / "trained-hybrid")
    export_hf(tmp_path / "trained-hybrid", tmp_path / "hybrid")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        original = (exported / "model" / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == original
        assert (tmp_path / "later" / name).read_bytes() == original
        assert (tmp_path / "hybrid" / name).read_bytes() == original


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_an_imported_model_has_its_logits(
    kv_heads: int, corpus: Corpus, exported: Path, forkserver: Forkserver, tmp_path: Path
) -> None:
    """A model that transformers made: another head size, RoPE of Llama 3, untied, more tokens in the tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from megatron_srp.checkpoints.import_hf import import_hf

    torch.manual_seed(kv_heads)
    llama3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        **{"vocab_size": 250, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
        **{"num_attention_heads": 4, "num_key_value_heads": kv_heads, "head_dim": 32, "tie_word_embeddings": False},
        rope_parameters={"rope_theta": 50_000.0, "original_max_position_embeddings": 8192} | llama3,
        initializer_range=0.2,
        max_position_embeddings=16_384,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    done = import_hf(tmp_path / "model", tmp_path / "start", tokenizer=str(exported / "model"))
    assert done.new_tokens == 6
    # The data's own tokenizer has the new tokens, and the batches some of them (eos is the last).
    argv = [*corpus.flags, *done.flags]
    tokens, logits = megatron_logits(forkserver, argv, tmp_path)
    known = tokens.clamp(max=249)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    model.resize_token_embeddings(256, mean_resizing=False)
    for table in (model.model.embed_tokens.weight, model.lm_head.weight):
        table.data[250:] = table.data[:250].mean(dim=0)
    assert not torch.equal(known, tokens)
    with torch.no_grad():
        expected = model(tokens).logits
    assert float(expected.abs().max()) > 1
    assert float((logits - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("factor", [None, 4.0])
def test_the_rope_is_written_for_transformers_4_too(factor: float | None, exported: Path) -> None:
    from dataclasses import replace

    from transformers import LlamaConfig

    from megatron_srp.checkpoints.llama import rope_of_old, shape_of_hf, to_hf_config

    config = LlamaConfig.from_pretrained(exported / "model")
    shape = replace(shape_of_hf(config, "model"), rope_base=130_000.0, rope_factor=factor)
    rope = to_hf_config(shape, "float32").rope_parameters
    old = rope_of_old(rope)
    assert old["rope_theta"] == 130_000.0 and ("rope_scaling" in old) == (factor is not None)
    sizes = config.to_dict()
    del sizes["rope_parameters"]
    assert LlamaConfig(**sizes | old).rope_parameters == rope  # 5 reads the old words as it reads its own


# Mistakes: the reason, and nothing half-written


def refused(call, error: type, *words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_is_refused(exported: Path, tmp_path: Path) -> None:
    from megatron_srp.checkpoints.export_hf import export_hf
    from megatron_srp.checkpoints.import_hf import import_hf
    from megatron_srp.errors import InputError, UsageError

    checkpoints, model, out = exported / "checkpoints", exported / "model", tmp_path / "out"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    refused(lambda: export_hf(checkpoints, model), UsageError, "exists already", "--overwrite")
    refused(lambda: export_hf(checkpoints, precious, overwrite=True), UsageError, "holds no config.json")
    refused(lambda: export_hf(checkpoints, out, step=7), InputError, "iter_0000007", "finished: iter_0000002")
    refused(lambda: export_hf(tmp_path / "no", out), InputError, "no such folder")
    refused(lambda: export_hf(precious, out), InputError, "finished: none")
    refused(lambda: export_hf(checkpoints, out, dtype="int8"), UsageError, "bfloat16")
    refused(lambda: export_hf(checkpoints, out, tokenizer=str(precious)), UsageError, "--tokenizer")
    refused(lambda: import_hf(precious, out), InputError, "no config.json")
    refused(lambda: import_hf(model, checkpoints), UsageError, "exists already")
    for change, words in {
        ("model_type", "qwen2"): ("model_type is 'qwen2'",),
        ("attention_bias", True): ("attention_bias",),
        ("hidden_act", "gelu"): ("hidden_act",),
        ("rope_parameters", None): (),
        ("hidden_size", 64): ("config.json says",),
        ("num_hidden_layers", 5): ("its files lack model.layers.4",),
        ("num_hidden_layers", 3): ("model.layers.3",),
    }.items():
        changed = tmp_path / "changed"
        shutil.copytree(model, changed, dirs_exist_ok=True)
        config = json.loads((model / "config.json").read_text())
        config[change[0]] = change[1] or {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
        (changed / "config.json").write_text(json.dumps(config))
        refused(lambda: import_hf(tmp_path / "changed", out), InputError, *words)
    (tmp_path / "changed" / "model.safetensors").write_bytes(b"\0" * 100)
    (tmp_path / "changed" / "config.json").write_text((model / "config.json").read_text())
    refused(lambda: import_hf(tmp_path / "changed", out), InputError, "safetensors")
    assert not list(tmp_path.glob("out*"))
    assert (precious / "thesis.tex").exists()


def test_another_architecture(corpus: Corpus, forkserver: Forkserver, tmp_path: Path) -> None:
    from megatron_srp.checkpoints.export_hf import export_hf
    from megatron_srp.errors import InputError

    for name, flags, reason in (
        ("norm", ["--normalization", "LayerNorm"], "Llama, which has RMSNorm; here normalization is 'LayerNorm'"),
        ("qk", ["--qk-layernorm"], "no norm on queries and keys"),
    ):
        checkpoints = save(forkserver, 1, [*corpus.flags, *STEPS, *flags], tmp_path / name)
        refused(lambda: export_hf(checkpoints, tmp_path / "out"), InputError, reason)  # noqa: B023


def test_a_damaged_checkpoint(exported: Path, tmp_path: Path) -> None:
    from megatron_srp.checkpoints.export_hf import export_hf
    from megatron_srp.errors import InputError

    damaged = tmp_path / "iter_0000002"
    shutil.copytree(exported / "checkpoints" / "iter_0000002", damaged)
    (data,) = damaged.glob("*.distcp")
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 10])
    refused(lambda: export_hf(damaged, tmp_path / "out"), InputError, str(damaged))
    data.unlink()
    refused(lambda: export_hf(damaged, tmp_path / "out"), InputError, str(damaged))
    data.write_bytes(whole)
    (damaged / ".metadata").write_bytes(b"x")
    refused(lambda: export_hf(damaged, tmp_path / "out"), InputError, "cannot be read")
    assert not list(tmp_path.glob("out*"))


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import megatron_srp.checkpoints.megatron_checkpoint, transformers
from megatron_srp.cli import export as export_command
from megatron_srp.errors import run_command

def export():
    try:
        run_command(lambda: export_command.main(sys.argv[1:]))
    except SystemExit as exit:
        print("exit", exit.code, flush=True)

resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, resource.RLIM_INFINITY))
export()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
export()
"""


def test_a_full_disk_and_then_the_same_command(exported: Path, tmp_path: Path) -> None:
    argv = [str(exported / "checkpoints"), str(tmp_path / "out"), "--dtype", "bfloat16"]
    command = [sys.executable, "-c", LIMITED, *argv]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment())
    (line,) = result.stderr.splitlines()  # no traceback, and no warnings of Megatron's either
    assert line.startswith("error: ") and "nothing was written" in line
    failed, done = result.stdout.split("exit 1\n")
    assert not failed
    assert "1,016,960 in bfloat16" in done and done.endswith("exit 0\n")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
