"""Export and import hold a weight and a file of the result in memory, not the model."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.corpus import write_tokenizer
from tests.distributed.jobs import REPOSITORY, environment

pytestmark = [pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore")]
MIB = 2**20

MEASURE = """
import sys, threading
from pathlib import Path
import megatron.core, transformers, safetensors.torch
from megatron_srp.checkpoints.export_hf import export_hf
from megatron_srp.checkpoints.import_hf import import_hf

def anonymous():  # without pages of mapped files, which the system takes back as it needs them
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0])

def growth(work):
    before, seen, done = anonymous(), [], threading.Event()
    def watch():
        while not done.wait(0.002):
            seen.append(anonymous())
    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    return max(seen) - before

model, start, again = map(Path, sys.argv[1:])
import_hf(model / "small", start / "small")  # all that is imported and allocated once
export_hf(start / "small", again / "small")
print(growth(lambda: import_hf(model / "large", start / "large")))
print(growth(lambda: export_hf(start / "large", again / "large", max_shard_bytes=32 * 2**20)))
"""


def write_model(folder: Path, layers: int) -> int:
    """A random Llama of 17 MiB a layer; its size in bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 8}
    config = LlamaConfig(vocab_size=256, num_hidden_layers=layers, tie_word_embeddings=True, **sizes)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="50MB")
    write_tokenizer(folder / "tokenizer")
    for file in (folder / "tokenizer").iterdir():
        file.rename(folder / file.name)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_memory(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_model(tmp_path / "model" / "small", 1)
    size = write_model(tmp_path / "model" / "large", 24)
    assert size > 384 * MIB
    folders = [str(tmp_path / name) for name in ("model", "start", "again")]
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, *folders]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment())
    assert result.returncode == 0, result.stderr
    importing, exporting = (int(line) / 1024 for line in result.stdout.split())  # MiB
    print(f"model {size / MIB:.0f} MiB; import {importing:.0f} MiB, export {exporting:.0f} MiB")
    assert importing < 100 and exporting < 100
    ours, theirs = ({} for _ in range(2))
    for found, folder in ((ours, "again"), (theirs, "model")):
        for path in (tmp_path / folder / "large").glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
