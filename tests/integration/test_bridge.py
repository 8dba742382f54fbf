"""Megatron Bridge's dataset provider: with Bridge where it can be imported, else with a stand-in for its base class."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from megatron_srp.checkpoints.export_hf import export_hf
from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import UsageError
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import random_texts
from tests.helpers.commands import srp
from tests.helpers.object_store import BUCKET, running_store
from tests.helpers.ports import free_port
from tests.helpers.sft_shards import chat_shard

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
MODULE = "megatron_srp.training.host.bridge"
LENGTH = 96
ROOT = Path(__file__).parents[2]
GUARD = ["--guard", "heuristic", "--max-words", "15"]


@dataclass(kw_only=True)
class StandIn:
    """The fields of Bridge's DataloaderConfig that its loaders read."""

    dataloader_type: str | None = None
    num_workers: int = 2


def bridge_is_there() -> bool:
    try:
        importlib.import_module("megatron.bridge.data.base")
    except ImportError:
        return False
    return True


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our module, on a `megatron.bridge.data.base` of the same names."""
    base: Any = ModuleType("megatron.bridge.data.base")
    base.DatasetProvider, base.DatasetBuildContext = StandIn, SimpleNamespace
    for name in ("megatron.bridge", "megatron.bridge.data"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, base.__name__, base)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module")
def data(tokenizer_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("bridge")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    builder = ReflectionIndexedDatasetBuilder(folder / "a", tokenizer, guard=None)
    builder.add_documents(random_texts(0, 20, 120))
    builder.finalize()
    shard = str(folder / "a_text_document")
    preprocess(["--input-shards", shard, *GUARD, "--output-prefix", str(folder / "w15")])
    eos = tokenizer.eos_id
    megatrons = SimpleNamespace(eod=eos, eos=eos, pad=-1, vocab_size=tokenizer.vocab_size, unique_identifiers={})
    sidecar = str(folder / "w15_a_text_document.srp")
    return SimpleNamespace(folder=folder, shard=shard, sidecar=sidecar, tokenizer=megatrons)


def check_provider(
    provider_class: Any, context_class: Any, data: SimpleNamespace, cache: Path, path: str = "", **options: str
) -> None:
    path, options = path or data.sidecar, {"path_to_cache": str(cache)} | options
    provider = provider_class(data_path=[path], seq_length=LENGTH, split="90,10,0", num_workers=0, **options)
    assert (provider.dataloader_type, provider.num_workers) == ("single", 0)
    context = context_class(train_samples=8, valid_samples=2, test_samples=0, tokenizer=data.tokenizer)
    train, valid, test = provider.build_datasets(context)
    assert len(train) >= 8 and len(valid) >= 2 and test is None
    read = train.dataset
    assert isinstance(read, ReflectedIndexedDataset)
    first, last = train.sample_index[int(train.shuffle_index[0])], train.sample_index[int(train.shuffle_index[0]) + 1]
    stream = np.concatenate([read[int(train.document_index[i])] for i in range(int(first[0]), int(last[0]) + 1)])
    begin = int(first[1])
    assert np.array_equal(train[0]["tokens"], stream[begin : begin + LENGTH])
    assert np.array_equal(train[0]["labels"], stream[begin + 1 : begin + LENGTH + 1])
    assert "attention_mask" not in train[0]


def test_the_provider_reads_a_sidecar(stand_in: Any, data: SimpleNamespace, tmp_path: Path) -> None:
    check_provider(stand_in.SRPDatasetProvider, SimpleNamespace, data, tmp_path)


def test_the_provider_reads_a_sidecar_on_s3(stand_in: Any, data: SimpleNamespace, tmp_path: Path) -> None:
    with running_store() as client:
        for file in (f"{data.shard}.bin", f"{data.shard}.idx", data.sidecar):
            client.upload_file(file, BUCKET, f"bridge/{Path(file).name}")
        url = f"s3://{BUCKET}/bridge/{Path(data.sidecar).name}"
        options = {"object_storage_cache_path": str(tmp_path / "copies")}
        check_provider(stand_in.SRPDatasetProvider, SimpleNamespace, data, tmp_path, url, **options)


def test_another_tokenizer_is_refused(stand_in: Any, data: SimpleNamespace, tmp_path: Path) -> None:
    other = SimpleNamespace(**vars(data.tokenizer) | {"eod": data.tokenizer.eod - 1, "eos": data.tokenizer.eos - 1})
    provider = stand_in.SRPDatasetProvider(data_path=[data.sidecar], seq_length=LENGTH, path_to_cache=str(tmp_path))
    context = SimpleNamespace(train_samples=8, valid_samples=0, test_samples=0, tokenizer=other)
    with pytest.raises(UsageError):
        provider.build_datasets(context)


SFT = "megatron_srp.training.host.bridge_sft"


@pytest.fixture
def stand_in_sft(stand_in: Any) -> Any:
    sys.modules.pop(SFT, None)
    yield importlib.import_module(SFT)
    sys.modules.pop(SFT, None)


@pytest.fixture(scope="module")
def chats(tokenizer_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    return chat_shard(tmp_path_factory.mktemp("chats"), tokenizer_models["gpt2"][1], 12, 0, "--seq-length", str(LENGTH))


def groups(**sizes: int) -> SimpleNamespace:
    """Process groups of these sizes, by Bridge's names."""
    return SimpleNamespace(**{name: SimpleNamespace(size=lambda n=n: n) for name, n in sizes.items()})


def test_conversations_as_bridges_step_takes_them(stand_in_sft: Any, data: SimpleNamespace, chats: str) -> None:
    provider = stand_in_sft.SRPConversationsProvider(data_path=[chats], seq_length=LENGTH)
    context = SimpleNamespace(
        train_samples=4, valid_samples=0, test_samples=0, tokenizer=data.tokenizer, pg_collection=groups(cp=1, pp=1)
    )
    train, valid, test = provider.build_datasets(context)
    assert (len(train), valid, test) == (4, None, None)
    batch = train.collate_fn([train[0], train[1]])
    assert batch["tokens"].shape == batch["labels"].shape == batch["loss_mask"].shape == (1, 2 * LENGTH)
    begins = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    assert batch["cu_seqlens_q"].tolist() == [*begins, 2 * LENGTH]
    assert LENGTH in begins and len(begins) > 2
    assert 0 < batch["loss_mask"].sum() < 2 * LENGTH


@pytest.mark.parametrize("name", ["cp", "pp"])
def test_parallelism_that_cuts_conversations_is_refused(stand_in_sft: Any, chats: str, name: str) -> None:
    provider = stand_in_sft.SRPConversationsProvider(data_path=[chats], seq_length=LENGTH)
    context = SimpleNamespace(pg_collection=groups(**{"cp": 1, "pp": 1, name: 2}))
    with pytest.raises(UsageError, match="parallelism of 2: packed conversations are not passed on"):
        provider.build_datasets(context)


BRIDGE = os.environ.get("SRP_BRIDGE_PYTHON")
needs_bridge = pytest.mark.skipif(BRIDGE is None, reason="SRP_BRIDGE_PYTHON names no Python with Megatron Bridge")


def on_cpu(*words: str) -> str:
    """Run Bridge in its own environment, on one rank."""
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
    environment = os.environ | ranks | {"MASTER_PORT": str(free_port()), "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    command = [str(BRIDGE), str(ROOT / "tests" / "helpers" / "bridge_on_cpu.py"), *words]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def losses(log: str) -> list[str]:
    return re.findall(r"lm loss: (\S+)", log)


@needs_bridge
@pytest.mark.exhaustive
def test_bridges_trainer_on_a_sidecar(data: SimpleNamespace, tmp_path: Path) -> None:
    """Its losses are those of the shard that was built, and a resumed run continues."""
    preprocess(["--input-shards", data.shard, "--materialize", *GUARD, "--output-prefix", str(tmp_path / "built")])
    sidecar = losses(on_cpu("train", "4", str(tmp_path / "save"), data.sidecar))
    built = losses(on_cpu("train", "6", str(tmp_path / "whole"), str(tmp_path / "built_a_text_document")))
    assert len(sidecar) == 4 and sidecar == built[:4]
    assert losses(on_cpu("train", "6", str(tmp_path / "save"), data.sidecar)) == built[4:]


@needs_bridge
@pytest.mark.exhaustive
def test_the_recipes(data: SimpleNamespace) -> None:
    printed = on_cpu("recipes", data.sidecar, "1p7b", "8b")
    assert "recipe 1p7b 24 2048 512" in printed
    assert "recipe 8b 32 4096 1024" in printed


@needs_bridge
@pytest.mark.exhaustive
def test_auto_bridge_exports_our_checkpoints(tmp_path: Path, data: SimpleNamespace) -> None:
    """The same weights as `srp export`, with the vocabulary's padding."""
    flags = ["--srp-preset", "debug", "--seq-length", "128", "--train-iters", "2", "--data-path", data.sidecar]
    trained = srp("train", *flags, "--save", tmp_path / "run")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    export_hf(tmp_path / "run", tmp_path / "ours")
    on_cpu("export", str(tmp_path / "run"), str(tmp_path / "ours"), str(tmp_path / "theirs"))
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert torch.equal(theirs.pop("lm_head.weight"), theirs["model.embed_tokens.weight"])  # tied, and written twice
    assert ours.keys() == theirs.keys()
    assert all(bool((theirs[name][: len(tensor)] == tensor).all()) for name, tensor in ours.items())


def test_with_bridge_itself(data: SimpleNamespace, tmp_path: Path) -> None:
    if not bridge_is_there():
        pytest.skip("megatron.bridge cannot be imported; it needs Transformer Engine")
    base, utils = (importlib.import_module(f"megatron.bridge.data.{name}") for name in ("base", "utils"))
    provider = importlib.import_module(MODULE).SRPDatasetProvider
    check_provider(provider, base.DatasetBuildContext, data, tmp_path)
    chosen = utils.get_dataset_provider(provider(data_path=[data.sidecar], seq_length=LENGTH))
    assert chosen.__name__ == "protocol_adapter"


@pytest.mark.skipif(bridge_is_there(), reason="megatron.bridge is installed")
def test_without_bridge_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(UsageError, match=r"needs Megatron Bridge.*pip install 'megatron-srp\[bridge\]'"):
        importlib.import_module(MODULE)
