"""Where real tokenizers and weights are, for benchmarks and tests; tests/real/fetch.sh brings them."""

import os
from pathlib import Path

from megatron_srp.benchmarks.real.gguf_tokenizer import write_tokenizer

DEFAULT = "~/.cache/megatron-srp-real"
MEASURED = ("llama3_1", "qwen3")  # and SmolLM2's, which is in its GGUF


def real_folder() -> Path:
    """That of `SRP_REAL_DATA`, or the default; it need not exist."""
    return Path(os.environ.get("SRP_REAL_DATA") or DEFAULT).expanduser()


def find_gguf(folder: Path) -> Path | None:
    """SmolLM2-135M-Instruct as GGUF, if it is there."""
    return next(iter(sorted((folder / "smollm2-135m-instruct").rglob("*.gguf"))), None)


def write_smollm2_tokenizer(folder: Path, out: Path) -> Path | None:
    """SmolLM2's tokenizer, written to `out` from the GGUF in `folder`; None where it is not there."""
    file = find_gguf(folder)
    return write_tokenizer(file, out) if file else None


def real_tokenizers(out: Path) -> list[Path]:
    """Folders of the tokenizers that the benchmarks measure with: as many as there are.

    Args:
        out: folder to write SmolLM2's to.
    """
    folder = real_folder()
    out.mkdir(parents=True)
    smollm2 = write_smollm2_tokenizer(folder, out)
    others = [folder / "tokenizers" / name for name in MEASURED]
    return [*([smollm2] if smollm2 else []), *(path for path in others if path.is_dir())]
