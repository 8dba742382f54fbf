"""The shards that all cases train on: a made-up corpus with reflections, the same without, and a sidecar for it.

python -m megatron_srp.benchmarks.gpu.shards FOLDER DOCUMENTS
"""

import subprocess
import sys
from pathlib import Path

from megatron_srp.benchmarks.gpu.processes import ended
from megatron_srp.benchmarks.gpu.stages import Check

_MOST_S = 120.0


class CorpusFailure(Exception):
    """The shards could not be made; the message is the reason."""


def shards(check: Check, limit_s: float) -> dict[str, Path]:
    """Their prefixes by kind: plain, reflected, view. The first that asks for them makes them.

    Raises:
        CorpusFailure: when the data job fails.
    """
    folder = check.folder / "data"
    if not (folder / "done").exists():
        command = [sys.executable, "-m", "megatron_srp.benchmarks.gpu.shards", folder, str(check.options.documents)]
        code = check.run(command, "shards.log", min(limit_s, _MOST_S))
        if code != 0:
            _, reason = ended(code, check.read_log("shards.log"))
            raise CorpusFailure(reason)
        (folder / "done").touch()
    return prefixes(folder)


def prefixes(folder: Path) -> dict[str, Path]:
    """Where `make` puts the shards (and the view's sidecar), by kind."""
    names = ("reflected", "plain", "view_plain")
    return {name.partition("_")[0]: folder / f"{name}_text_document" for name in names}


def make(folder: Path, documents: int) -> None:
    """The corpus, its shard with reflections, the same without, and the sidecar."""
    from megatron_srp.data.shards.strip import strip_reflections
    from megatron_srp.toy_corpus.corpus import train_tokenizer, write_corpus

    folder.mkdir(parents=True, exist_ok=True)
    write_corpus(folder / "corpus.jsonl", documents)
    train_tokenizer(folder / "tokenizer")
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", folder / "tokenizer"]
    preprocess(folder / "reflected", "--input", folder / "corpus.jsonl", *tokenizer, "--append-eod")
    strip_reflections(folder / "reflected", folder / "plain", overwrite=True)
    preprocess(folder / "view", "--input-shards", folder / "plain_text_document")


def preprocess(prefix: Path, *flags: object) -> None:
    """The data job, as a user starts it; where it fails, its error is this process's last."""
    command = [sys.executable, "-m", "megatron_srp", "preprocess", *flags]
    command += ["--guard", "heuristic", "--overwrite", "--output-prefix", prefix]
    if code := subprocess.run(list(map(str, command))).returncode:
        sys.exit(code)


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
