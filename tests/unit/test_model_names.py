"""A mistyped model is one line at once, whichever command was given it."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from megatron_srp.annotation.engines.hf_loading import load_model
from megatron_srp.annotation.engines.prompt_text import PromptText
from megatron_srp.annotation.guards.guard_tokenizer import GuardTokenizer
from megatron_srp.errors import UsageError
from megatron_srp.evaluation.judges.harmbench import HarmBenchJudge
from megatron_srp.generation.model_folder import check_model_folder
from megatron_srp.generation.model_settings import ModelSettings
from tests.helpers.hub import running_hub

TAKES_A_MODEL = [
    ModelSettings.of,
    check_model_folder,
    lambda name: load_model(name, torch.float32),
    PromptText,
    GuardTokenizer,
    HarmBenchJudge,
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    return tmp_path


@pytest.mark.parametrize("take", TAKES_A_MODEL)
@pytest.mark.parametrize("name", ["nowhere", "owner/nowhere"])
def test_a_name_that_the_hub_lacks(take, name, cache, monkeypatch):
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        with pytest.raises(UsageError, match=f"{name}: no such folder, and no such model on the Hugging Face hub"):
            take(name)


def test_without_network(cache, monkeypatch, caplog):
    with pytest.raises(UsageError, match=r"nowhere: no such folder, and not found on the .* hub \(.*refused"):
        check_model_folder("nowhere")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"nowhere: no such folder, and not found on the .* hub \(.*offline"):
        check_model_folder("nowhere")
    assert "Retrying" not in caplog.text


def test_a_model_in_the_cache_needs_no_network(cache):
    folder = cache / "models--owner--name" / "snapshots" / "0123"
    folder.mkdir(parents=True)
    with pytest.raises(UsageError, match="not found"):
        check_model_folder("owner/name")
    (folder / "config.json").write_text("{}")
    check_model_folder("owner/name")
