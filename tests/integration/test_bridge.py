"""Megatron Bridge's dataset provider: with Bridge where it can be imported, else with a stand-in for its base class."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import UsageError
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import random_texts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
MODULE = "megatron_srp.training.host.bridge"
LENGTH = 96


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
    guard = ["--guard", "heuristic", "--max-words", "15", "--output-prefix", str(folder / "w15")]
    preprocess(["--input-shards", shard, *guard])
    eos = tokenizer.eos_id
    megatrons = SimpleNamespace(eod=eos, eos=eos, pad=-1, vocab_size=tokenizer.vocab_size, unique_identifiers={})
    sidecar = str(folder / "w15_a_text_document.srp")
    return SimpleNamespace(folder=folder, shard=shard, sidecar=sidecar, tokenizer=megatrons)


def check_provider(provider_class: Any, context_class: Any, data: SimpleNamespace, cache: Path) -> None:
    provider = provider_class(
        data_path=[data.sidecar], seq_length=LENGTH, split="90,10,0", path_to_cache=str(cache), num_workers=0
    )
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


def test_another_tokenizer_is_refused(stand_in: Any, data: SimpleNamespace, tmp_path: Path) -> None:
    other = SimpleNamespace(**vars(data.tokenizer) | {"eod": data.tokenizer.eod - 1, "eos": data.tokenizer.eos - 1})
    provider = stand_in.SRPDatasetProvider(data_path=[data.sidecar], seq_length=LENGTH, path_to_cache=str(tmp_path))
    context = SimpleNamespace(train_samples=8, valid_samples=0, test_samples=0, tokenizer=other)
    with pytest.raises(UsageError):
        provider.build_datasets(context)


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
