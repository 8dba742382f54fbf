"""Real tokenizers and models, from the folder that SRP_REAL_DATA names; without it these tests are skipped."""

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
    folder = Path(os.environ.get("SRP_REAL_DATA", DEFAULT)).expanduser()
    if not folder.is_dir():
        pytest.skip(f"no real tokenizers in {folder}; set SRP_REAL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def smollm2_tokenizer(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of SmolLM2's tokenizer, out of the model's GGUF."""
    files = sorted((real_data / "smollm2-135m-instruct").rglob("*.gguf"))
    if not files:
        pytest.skip(f"no GGUF of SmolLM2 in {real_data}")
    return write_tokenizer(files[0], tmp_path_factory.mktemp("smollm2"))
