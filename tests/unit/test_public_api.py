"""`import megatron_srp`: which names it has, what they cost, and whether their examples are right."""

import ast
import doctest
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import megatron_srp
from tests.helpers.tiny_training import tiny_model

NAMES = [
    "AnnotationStore",
    "Guard",
    "GuardOptions",
    "GuardPolicy",
    "GuardResult",
    "GuardedModel",
    "Policy",
    "ReflectedIndexedDataset",
    "ReflectionFormat",
    "ReflectionIndexedDatasetBuilder",
    "SafetyLabel",
    "Verdict",
    "load_guard",
    "load_tokenizer",
    "register",
    "segment_text",
]


def test_the_names():
    assert sorted(megatron_srp.__all__) == sorted(["__version__", *NAMES])
    assert set(megatron_srp.__all__) <= set(dir(megatron_srp))
    with pytest.raises(AttributeError, match="has no attribute 'Gard'"):
        _ = megatron_srp.Gard  # type: ignore[attr-defined]


def test_type_checkers_see_the_same_names():
    stub = ast.parse(Path(megatron_srp.__file__).with_suffix(".pyi").read_text())
    assert (
        sorted(alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names) == NAMES
    )


def test_importing_it_imports_nothing_heavy():
    code = "import sys, megatron_srp; dir(megatron_srp); print(*{'numpy', 'torch', 'pyarrow'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


@pytest.fixture(scope="module")
def folder(tokenizer_models, tmp_path_factory) -> Path:
    """What the examples speak of: a tokenizer, a plain shard with a sidecar, a store of verdicts, a model."""
    from transformers import AutoTokenizer

    from megatron_srp.cli.annotate import main as annotate
    from megatron_srp.cli.preprocess import main as preprocess

    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(tokenizer_models["gpt2"][1], folder / "tokenizer")
    corpus = folder / "corpus.jsonl"
    corpus.write_text('{"text": "A quiet morning by the river."}\n')
    tokenizer = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(folder / "tokenizer")]
    plain = ["--guard", "none", "--append-eod", "--output-prefix", str(folder / "plain")]
    preprocess(["--input", str(corpus), *tokenizer, *plain])
    sidecar = ["--guard", "heuristic", "--output-prefix", str(folder / "reflections")]
    preprocess(["--input-shards", str(folder / "plain_text_document"), *sidecar])
    annotate(["--input", str(corpus), "--guard", "heuristic", "--store", str(folder / "verdicts")])
    shutil.copytree(folder / "tokenizer", folder / "model")
    tiny_model(AutoTokenizer.from_pretrained(folder / "model"), 256).save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_run(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    public = getattr(megatron_srp, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(public, name, globs={})
    assert example.examples, f"{name} has no example"
    report: list[str] = []
    doctest.DocTestRunner().run(example, out=report.append)
    assert not report, "".join(report)
