"""A corpus, a way to start jobs, and one uninterrupted run that the tests compare with."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megatron_srp.cli.preprocess import main
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import random_texts
from tests.distributed.corpus import markov_documents, write_manifest, write_shard, write_tokenizer
from tests.distributed.jobs import REPOSITORY, Corpus, Forkserver, Run, environment, torchrun


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Some 200 documents with a structure that a small model learns in a few steps."""
    folder = tmp_path_factory.mktemp("corpus")
    write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "pad-is-eos", pad_token="<|endoftext|>")
    write_tokenizer(folder / "other", letter="v")
    write_shard(folder / "corpus_text_document", markov_documents(200))
    write_manifest(folder / "corpus", folder / "tokenizer")
    return Corpus(
        prefix=str(folder / "corpus_text_document"),
        tokenizer_with_pad_equal_to_eos=str(folder / "pad-is-eos"),
        other_tokenizer=str(folder / "other"),
    )


@pytest.fixture(scope="session")
def two_corpora(tokenizer_models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora a and b: plain shards, their sidecars (w20_plain_*), and the same shards with reflections (built_*)."""
    from megatron_srp.annotation import load_guard

    folder = tmp_path_factory.mktemp("two_corpora")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    for seed, name in enumerate("ab"):
        for kind, guard in (("plain", None), ("built", load_guard("heuristic"))):
            builder = ReflectionIndexedDatasetBuilder(folder / f"{kind}_{name}", tokenizer, guard=guard, max_words=20)
            builder.add_documents(random_texts(seed, 60))
            builder.finalize()
    plain = [str(folder / f"plain_{name}_text_document") for name in "ab"]
    made = ["--guard", "heuristic", "--max-words", "20", "--output-prefix", str(folder / "w20")]
    main(["--input-shards", *plain, *made])
    return folder


@pytest.fixture(scope="session")
def forkserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkserver]:
    """One process that has imported Megatron and forks the ranks of each job."""
    command = [sys.executable, str(Path(__file__).with_name("forkserver.py"))]
    env = environment() | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=REPOSITORY
    )
    server = Forkserver(process, tmp_path_factory.mktemp("logs"))
    assert server.answer() == []
    yield server
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=300)


@pytest.fixture(scope="session")
def uninterrupted(corpus: Corpus, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Run:
    """30 steps at TP=2 through the real command, with checkpoints at steps 15 and 30."""

    def train(folder: Path) -> None:
        result = torchrun([*corpus.flags, "--tensor-model-parallel-size", "2", *Run(folder).flags])
        assert result.returncode == 0, result.stdout + result.stderr

    return Run(made_once("uninterrupted", train))
