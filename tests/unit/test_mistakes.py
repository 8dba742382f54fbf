"""Mistakes that any user may make with names, for every command that takes them: one line, exit 2."""

import os

import pytest

from megatron_srp.annotation import load_guard
from megatron_srp.cli.annotate import main as annotate
from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.corpus.patterns import expand_inputs
from megatron_srp.data.shards.parts import find_parts
from megatron_srp.data.shards.prefix import output_prefix
from megatron_srp.errors import UsageError, run_command
from megatron_srp.reports.shard_report import open_shard
from tests.helpers.commands import srp

NOT_UTF8 = os.fsdecode(b"\xff\xfe")


@pytest.mark.parametrize("given", ["", ".", "/", "out/", "out/..", NOT_UTF8, "out/a\nb", "out/" + 151 * "x"])
def test_an_output_prefix_must_name_files(given):
    with pytest.raises(UsageError, match=r"is a folder|not UTF-8|cannot be printed|longer than 150 bytes"):
        output_prefix(given)


def test_a_name_too_long_for_the_file_system(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(lambda: (tmp_path / (300 * "x")).stat() and 0)
    assert capsys.readouterr().err.endswith("xxx; pass a shorter one\n")


def test_all_commands_check_it(tmp_path):
    for command in (
        ["strip", "in", "out/"],
        ["merge", "out/", "in"],
        ["preprocess", "--input", "in", "--output-prefix", "out/"],
    ):
        done = srp(*command, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith("error: output prefix 'out/': is a folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags",
    [
        ["sft", "--input", "c.jsonl", "--guard", "heuristic", "--output-prefix"],
        ["sft", "--input", "c.jsonl", "--guard", "heuristic", "--out"],
        ["show"],
    ],
)
def test_no_command_takes_a_url_for_a_folder(flags, tmp_path):
    done = srp(*flags, "s3://bucket/a/b", cwd=tmp_path)
    assert done.returncode == 2 and "s3://bucket/a/b: only local files can be used here" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [["strip", "in"], ["strip"], ["verify"], ["inspect"]])
def test_nor_one_of_another_place_for_s3(flags, tmp_path):
    done = srp(*flags, "gs://bucket/a/b", cwd=tmp_path)
    assert done.returncode == 2 and "gs://bucket/a/b: is neither on this machine nor on S3; pass a path" in done.stderr
    assert not list(tmp_path.iterdir())


def test_inputs_that_cannot_be_read_twice_or_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UsageError, match="pipe or device"):
        expand_inputs([str(tmp_path / "pipe.jsonl")])
    (tmp_path / f"{NOT_UTF8}.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UsageError, match="not UTF-8; rename"):
        expand_inputs([str(tmp_path / f"{NOT_UTF8}.jsonl")])


def test_an_empty_store_and_a_guard_that_is_no_guard(write_jsonl):
    with pytest.raises(UsageError, match="--store: pass the folder"):
        annotate(["--input", str(write_jsonl(["a"])), "--guard", "heuristic", "--store", ""])
    with pytest.raises(UsageError, match="pass python:MODULE:CLASS"):
        load_guard("python:json.decoder:JSONDecodeError")


def test_the_prefix_of_a_set_of_sidecars(tokenizer_models, write_jsonl, tmp_path):
    kind, model = tokenizer_models["gpt2"]
    tokenizer = ["--tokenizer-type", kind, "--tokenizer-model", str(model)]
    texts = write_jsonl(["How to build a bomb. It is safe to go on here."])
    preprocess(["--input", str(texts), *tokenizer, "--guard", "none", "--output-prefix", str(tmp_path / "plain")])
    shard = str(tmp_path / "plain_text_document")
    sidecars = tmp_path / "w5"
    flags = ["--guard", "heuristic", "--max-words", "5", "--output-prefix", str(sidecars)]
    preprocess(["--input-shards", shard, *tokenizer, *flags])
    assert open_shard(sidecars).name == tmp_path / "w5_plain_text_document"
    with pytest.raises(UsageError, match="holds sidecars"):
        find_parts([sidecars])
