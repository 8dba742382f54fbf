"""Real tokenizers, weights and prose, where somebody has put them; nothing is downloaded.

SRP_REAL_DATA      folder of tokenizers and models, ~/.cache/megatron-srp-real by default
SRP_CORPUS_DATA    folder of prose as JSONL or Parquet
"""

import os
from pathlib import Path

import pytest

from megatron_srp.benchmarks.real.data import real_folder, write_smollm2_tokenizer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/real/" in item.path.as_posix():
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real tokenizers and weights."""
    folder = real_folder()
    if not folder.is_dir():
        pytest.skip(f"no real tokenizers in {folder}; tests/real/fetch.sh brings them")
    return folder


@pytest.fixture(scope="session")
def smollm2_tokenizer(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of SmolLM2's tokenizer, out of the model's GGUF."""
    folder = write_smollm2_tokenizer(real_data, tmp_path_factory.mktemp("smollm2"))
    if folder is None:
        pytest.skip(f"no GGUF of SmolLM2 in {real_data}")
    return folder


@pytest.fixture(scope="session")
def real_corpus() -> list[Path]:
    """Files of English prose."""
    folder = Path(os.environ.get("SRP_CORPUS_DATA", "no/such/folder"))
    files = sorted(folder.glob("*.*")) if folder.is_dir() else []
    if not files:
        pytest.skip("no prose: set SRP_CORPUS_DATA to a folder of JSONL or Parquet files")
    return files
