"""Real tokenizers, weights and prose, where somebody has put them; nothing is downloaded.

SRP_REAL_DATA      folder of tokenizers and models, ~/.cache/megatron-srp-real by default
SRP_CORPUS_DATA    folder of prose as JSONL or Parquet
"""

import os
from pathlib import Path

import pytest

from tests.real.gguf_tokenizer import write_tokenizer

DEFAULT = "~/.cache/megatron-srp-real"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/real/" in item.path.as_posix():
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real tokenizers and weights."""
    folder = Path(os.environ.get("SRP_REAL_DATA", DEFAULT)).expanduser()
    if not folder.is_dir():
        pytest.skip(f"no real tokenizers in {folder}; set SRP_REAL_DATA to a folder that has them")
    return folder


@pytest.fixture(scope="session")
def smollm2_tokenizer(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of SmolLM2's tokenizer, out of the model's GGUF."""
    files = sorted((real_data / "smollm2-135m-instruct").rglob("*.gguf"))
    if not files:
        pytest.skip(f"no GGUF of SmolLM2 in {real_data}")
    return write_tokenizer(files[0], tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="session")
def real_corpus() -> list[Path]:
    """Files of English prose."""
    folder = Path(os.environ.get("SRP_CORPUS_DATA", "no/such/folder"))
    files = sorted(folder.glob("*.*")) if folder.is_dir() else []
    if not files:
        pytest.skip("no prose: set SRP_CORPUS_DATA to a folder of JSONL or Parquet files")
    return files
