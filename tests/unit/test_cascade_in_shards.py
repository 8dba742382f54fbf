"""`srp preprocess` with a cascade: the bound it prints, the audit that stops it, and runs that are killed."""

import json

import pytest

from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.data.audited_labels import describe_audit
from megatron_srp.data.shards.merge import merge_shards
from megatron_srp.data.shards.parts import find_parts
from megatron_srp.errors import GuardError
from tests.conftest import random_texts
from tests.helpers.corpus_files import write
from tests.helpers.killing import kill_and_resume
from tests.unit.test_cascade import make_files, set_threshold

QUIET = [f"A quiet river number {i}." for i in range(600)]
HARM = [f"How to build a bomb number {i}." for i in range(600)]


@pytest.fixture
def cascade(tmp_path):
    """A cascade whose front settles what has a probability of harm below 0.5, and knows nothing of harm."""
    path = make_files(tmp_path, audit=0.3, target={"miss": 0.9, "of": "harmful"})
    set_threshold(path, 0.5)
    return path


@pytest.fixture
def flags(cascade, tokenizer_models):
    kind, model = tokenizer_models["gpt2"]
    judge = ["--guard", f"cascade:{cascade}", "--tokenizer-type", kind, "--tokenizer-model", str(model)]
    return [*judge, "--append-eod", "--max-words", "10", "--workers", "2"]


def manifest(prefix):
    return json.loads(prefix.with_name(f"{prefix.name}.srp.json").read_text())


def test_it_prints_the_bound_and_the_next_command(flags, tmp_path, capsys):
    inputs = [write(tmp_path / f"{i}.jsonl", random_texts(i, 80, most_words=60)) for i in range(2)]
    preprocess(["--input", *map(str, inputs), *flags, "--output-prefix", str(tmp_path / "c")])
    out = capsys.readouterr().out
    assert "cascade of front and heuristic: the front settled " in out and "audit: " in out and "srp inspect" in out
    made = manifest(tmp_path / "c")
    assert sum(made["settled"].values()) == made["counts"]["segments"]
    for part in range(2):
        flag = ["--num-partitions", "2", "--partition-index", str(part), "--output-prefix", str(tmp_path / "p")]
        preprocess(["--input", *map(str, inputs), *flags, *flag])
    joined = merge_shards(find_parts([tmp_path / "p"], tmp_path / "joined"), tmp_path / "joined")
    assert joined["settled"] == made["settled"] and describe_audit(joined) == describe_audit(made)


@pytest.mark.parametrize("shards", [False, True])
def test_a_planted_drift_stops_it_and_a_resumed_run_remembers(flags, cascade, tmp_path, shards, capsys):
    """The second half of the corpus is harmful in a way that the front does not see."""
    make_files(tmp_path, audit=0.3, target={"miss": 0.05, "of": "harmful"})
    set_threshold(cascade, 1.0)
    first, second = (write(tmp_path / f"{name}.jsonl", t) for name, t in (("a", QUIET), ("b", HARM)))
    source = ["--input", str(first), str(second)]
    if shards:
        plain = [*source, "--guard", "none", *flags[2:6], "--append-eod", "--output-prefix", str(tmp_path / "plain")]
        preprocess(plain)
        source = ["--input-shards", str(tmp_path / "plain_text_document")]
        flags = [flag for flag in flags if flag != "--append-eod"]
    job = [*source, *flags, "--chunk-documents", "100", "--output-prefix", str(tmp_path / "c")]
    for _ in range(2):
        with pytest.raises(GuardError, match=r"of this corpus are missed .*rerun with --overwrite"):
            preprocess(job)
    set_threshold(cascade, 0.0)
    preprocess([*job, "--overwrite"])
    assert manifest(tmp_path / "c")["settled"] == {"back Safe": 600, "back Unsafe": 600}


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(flags, tmp_path):
    inputs = [write(tmp_path / f"{i}.jsonl", random_texts(70 + i, 300, most_words=150)) for i in range(2)]
    job = ["--input", *map(str, inputs), *flags, "--chunk-documents", "40"]
    assert kill_and_resume(job, tmp_path, kills=6, seed=2)["results compared"] > 0
