"""A checkout of Megatron-LM, named by MEGATRON_LM: its scripts are run as they are. Nothing of it is copied."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_srp.cli.preprocess import main
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.tokenization import load_tokenizer
from tests.conftest import random_texts
from tests.distributed.jobs import REPOSITORY, Forkserver, environment

SERVER = REPOSITORY / "tests" / "distributed" / "forkserver.py"


@pytest.fixture(scope="session")
def checkout() -> Path:
    if "MEGATRON_LM" not in os.environ:
        pytest.skip("MEGATRON_LM does not name a checkout of Megatron-LM (make test-hosts MEGATRON_LM=CHECKOUT)")
    return Path(os.environ["MEGATRON_LM"])


@pytest.fixture(scope="session")
def server(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forkserver]:
    """Forks the ranks of each job from a process that has imported the checkout's Megatron."""
    paths = [str(REPOSITORY), str(checkout), *sys.path]
    process = subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment() | {"PYTHONPATH": os.pathsep.join(paths)},
        cwd=REPOSITORY,
    )
    forkserver = Forkserver(process, tmp_path_factory.mktemp("logs"))
    assert forkserver.answer() == []
    yield forkserver
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=300)


@pytest.fixture(scope="session")
def data(tokenizer_models, tmp_path_factory) -> dict[str, list[str]]:
    """Blends of two corpora as flags: plain, as sidecars of the same shards, and with reflections built in."""
    from megatron_srp.annotation import load_guard

    folder = tmp_path_factory.mktemp("data")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    for seed, name in enumerate("ab"):
        for kind, guard in (("plain", None), ("reflected", load_guard("heuristic"))):
            builder = ReflectionIndexedDatasetBuilder(folder / f"{kind}_{name}", tokenizer, guard=guard, max_words=20)
            builder.add_documents(random_texts(seed, 60))
            builder.finalize()
    plain, built = ([f"{folder}/{kind}_{name}_text_document" for name in "ab"] for kind in ("plain", "reflected"))
    main(
        ["--input-shards", *plain, "--guard", "heuristic", "--max-words", "20", "--output-prefix", str(folder / "w20")]
    )
    sidecars = [f"{folder}/w20_plain_{name}_text_document.srp" for name in "ab"]
    blends = {"plain": plain, "sidecar": sidecars, "reflected": built}
    return {kind: ["--data-path", "0.6", first, "0.4", second] for kind, (first, second) in blends.items()}


@pytest.fixture(scope="session")
def report(checkout: Path) -> Iterator[list[str]]:
    """Rows of a table; written to out/hosts when the tests end."""
    rows: list[str] = []
    yield rows
    version = _version(checkout)
    lines = [
        f"Megatron-LM {version}",
        "",
        "| script | layout | data | losses of the steps |",
        "|---|---|---|---|",
        *rows,
    ]
    folder = REPOSITORY / "out" / "hosts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{version}.md").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def logs(checkout: Path) -> Path:
    """Where the logs of the scripts are kept."""
    folder = REPOSITORY / "out" / "hosts" / _version(checkout)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _version(checkout: Path) -> str:
    names: dict[str, object] = {}
    lines = (checkout / "megatron" / "core" / "package_info.py").read_text().splitlines()
    for line in lines:
        name, _, value = line.partition(" = ")
        if name in ("MAJOR", "MINOR", "PATCH"):
            names[name] = int(value)
    return "{MAJOR}.{MINOR}.{PATCH}".format(**names)
