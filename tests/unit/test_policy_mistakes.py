"""Policies that do not exist, files that are none, and what a shard cannot hold."""

import pytest

from megatron_srp.cli.preprocess import main
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.policies.policy import Policy
from megatron_srp.errors import UsageError
from tests.helpers.plain_shards import build, flags


@pytest.mark.parametrize("text, message", [
    ("name: x", "has no 'rules'"),
    ("name: x\nrules: {Unsave: {text: drop}}", "unknown verdict 'Unsave'"),
    ("name: x\nrules: {Unsafe: {txt: drop}}", "did you mean 'text'"),
    ("name: x\nrules: {Unsafe: {text: dropp}}", "did you mean 'drop'"),
    ("name: x\nrules: {Unsafe: drop}", "is not a rule; write one such as {text: drop}"),
    ("name: x\nrules: {Unsafe: {inside: <a>}}", "give both or neither"),
    ("name: x\nrules: {Unsafe: {inside: <a>, rate: 2}}", "a share from 0 to 1"),
    ("name: x\nrules: {Unsafe: {before: 3}}", "a text"),
    ("name: x\nrules: {Unsafe: {reflect: true, after: x}}", "choose one"),
    ("name: [x]\nrules: {}", "name: .* is not a text"),
    ("name: ''\nrules: {}", "name: .* is not a text"),
    ("name: x\nby: documents\nrules: {}", "did you mean 'document'"),
    ("name: x\ntokens: specials\nrules: {}", "did you mean 'special'"),
    ("name: x\nrule: {}\nrules: {}", "did you mean 'rules'"),
    ("- a", "not a policy"),
    ("{", "not valid YAML"),
])  # fmt: skip
def test_a_file_that_is_no_policy(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        Policy.load(str(path))
    assert str(error.value).startswith(f"--policy {path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, message", [
    ("drop-segmnt", "did you mean 'drop-segment'"),
    ("nowhere.yaml", "No such file"),
])  # fmt: skip
def test_a_policy_that_does_not_exist(name, message):
    with pytest.raises(UsageError, match=message):
        Policy.load(name)


def test_what_a_shard_cannot_hold_is_refused(tokenizer_models, tokenizer, tmp_path):
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"text": "A text."}\n')
    own = ["--input", str(corpus), *flags(tokenizer_models["gpt2"]), "--output-prefix", str(tmp_path / "o")]
    for more, message in (
        (["--policy", "mask-loss"], "needs a loss mask, which a shard cannot hold"),
        (["--start-share", "0.5"], "needs the plain text as well"),
        (["--start-share", "1.5"], "from 0 to below 1"),
        (["--policy", "hide", "--hints"], "hints"),
        (["--guard", "none", "--policy", "hide"], "need verdicts"),
    ):
        with pytest.raises(UsageError, match=message):
            main([*own, *more])
    with pytest.raises(UsageError, match="loss mask"):
        ReflectionIndexedDatasetBuilder(tmp_path / "x", tokenizer, guard=None, policy=Policy.load("mask-loss")).close()
        build(tmp_path / "x", tokenizer, "heuristic", policy=Policy.load("mask-loss"))
