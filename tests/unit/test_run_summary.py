"""What a run says before its first step, and the data that it refuses because there is nothing to learn from them."""

import json
import re
from pathlib import Path

import pytest

from megatron_srp.annotation import load_guard
from megatron_srp.cli.preprocess import main
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.data.shards.sidecar import ReflectionSidecar
from megatron_srp.data.shards.strip import strip_reflections
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import InputError, UsageError
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.checks.data import check_shards
from megatron_srp.training.checks.run_summary import describe_start, summarize_run
from megatron_srp.training.checks.splits import check_parts
from megatron_srp.training.flags.command_line import look_at
from tests.conftest import random_texts


def look(*argv: object):
    return look_at([str(item) for item in argv])


@pytest.fixture(scope="module")
def folder(tokenizer_models, tmp_path_factory) -> Path:
    """Shards `plain` with a sidecar, `bare` without end-of-document tokens, and `built` with its reflections."""
    folder = tmp_path_factory.mktemp("shards")
    tokenizer = load_tokenizer(*tokenizer_models["gpt2"])
    for name, guard, append_eod in (("plain", None, True), ("bare", None, False), ("built", "heuristic", True)):
        builder = ReflectionIndexedDatasetBuilder(
            folder / name, tokenizer, guard=load_guard(guard) if guard else None, append_eod=append_eod, max_words=8
        )
        builder.add_documents(random_texts(5, 8))
        builder.finalize()
    main(
        [
            *("--input-shards", str(folder / "plain_text_document"), "--guard", "heuristic", "--max-words", "8"),
            *("--output-prefix", str(folder / "w8")),
        ]
    )
    return folder


def test_each_shard_has_a_line_with_what_is_learned_from_it(folder: Path) -> None:
    plain, bare, built = (folder / f"{name}_text_document" for name in ("plain", "bare", "built"))
    sidecar = folder / "w8_plain_text_document.srp"
    args = look("--data-path", "0.5", plain, "0.3", bare, "0.2", built, "--srp-sidecar", sidecar)
    density = 1000 * len(ReflectionSidecar.load(sidecar).cuts) / len(IndexedShard(plain).tokens)
    assert summarize_run(args).splitlines() == [
        "data:",
        f"      50%  {plain}: sidecar {sidecar}, {density:.1f} reflections per 1,000 tokens of text, end-of-document tokens",
        f"      30%  {bare}: no reflections, no end-of-document tokens (--append-eod puts them in)",
        # The same texts as in `plain`, with the same interval.
        f"      20%  {built}: {density:.1f} reflections per 1,000 tokens of text, end-of-document tokens",
        "start: from scratch",
    ]


def test_a_stripped_shard_has_no_reflections(folder: Path, tmp_path: Path) -> None:
    manifest = strip_reflections(folder / "built", tmp_path / "stripped")
    assert manifest["settings"].keys() == json.loads((folder / "plain.srp.json").read_text())["settings"].keys()
    shard = tmp_path / "stripped_text_document"
    (line,) = summarize_run(look("--data-path", shard)).splitlines()[1:-1]
    assert line == f"     100%  {shard}: no reflections, end-of-document tokens"


def test_parts_of_their_own_and_shards_that_say_nothing(folder: Path, tmp_path: Path) -> None:
    for end in (".bin", ".idx"):
        Path(f"{tmp_path}/moved{end}").write_bytes(Path(f"{folder}/plain_text_document{end}").read_bytes())
    built = folder / "built_text_document"
    lines = summarize_run(look("--train-data-path", tmp_path / "moved", built, "--valid-data-path", built)).splitlines()
    assert lines[1].startswith(f"  by size  train {tmp_path / 'moved'}: reflections unknown (no manifest), end-of-doc")
    assert lines[3].startswith(f"     100%  valid {built}: ")
    assert summarize_run(look("--mock-data")).startswith("data: Megatron's mock data\n")


def test_a_plain_shard_is_never_trained_on_without_a_note(folder: Path) -> None:
    plain = folder / "plain_text_document"
    _, notes = check_shards(look("--data-path", plain))
    assert notes == [f"{plain} has no sidecar (--srp-sidecar FILE.srp): trained on without reflections"]
    assert check_shards(look("--data-path", folder / "built_text_document"))[1] == []


def write_checkpoint(folder: Path, iteration: int) -> Path:
    (folder / f"iter_{iteration:07d}").mkdir(parents=True)
    (folder / f"iter_{iteration:07d}" / "metadata.json").write_text(json.dumps({}))
    (folder / "latest_checkpointed_iteration.txt").write_text(str(iteration))
    return folder


def test_where_a_run_starts(tmp_path: Path) -> None:
    saved, new = write_checkpoint(tmp_path / "saved", 20), tmp_path / "new"
    for argv, start in (
        ([], "from scratch"),
        (["--save", new], "from scratch"),
        (["--save", new, "--load", new], "from scratch"),
        (["--save", saved, "--load", saved], f"resumes at iteration 20 of {saved}"),
        (["--save", new, "--load", saved, "--finetune"], f"from the weights of iteration 20 of {saved}"),
        (["--save", new, "--load", new, "--pretrained-checkpoint", saved], f"from the weights of {saved}"),
        (["--load", "s3://bucket/run"], "from s3://bucket/run, if it has a checkpoint"),
        (
            ["--save", saved],
            f"from scratch, over the existing checkpoints in {saved} (iteration 20); to resume from them add "
            f"--load {saved}",
        ),
    ):
        assert describe_start(look(*argv)) == start
    with pytest.raises(InputError, match="no checkpoint there"):
        describe_start(look("--load", new))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["0.7", "A", "0.3", "B", "--split", "90,10,0", "--eval-iters", "0"], "0 and --split 90,10,0 .* valid part"),
        (["A", "B", "--split", "90,0,10", "--eval-iters", "0"], "Pass --eval-iters 1 or more, or --split 1,0,0 to"),
        (["1", "A", "--eval-iters", "0"], "0 and --split 969,30,1 do not go together"),
        (["A", "--split", "0,100,0"], r"--split 0,100,0 leaves nothing to train on: .*; pass 99,1,0"),
        (["A", "--split", "0,0"], "--split 0,0: pass the shares"),
        (["A", "--split", "1,2,3,4"], "--split 1,2,3,4: pass the shares"),
        (["A", "--split", "1.2.3"], "--split 1.2.3: pass the shares"),
        (["--valid-data-path", "A"], "nothing to train on: pass --train-data-path"),
        (
            ["--train-data-path", "A", "--valid-data-path", "A", "B", "--eval-iters", "0"],
            "0 and the valid blend do not .* or leave the valid shards out",
        ),
        (["A", "--seq-length", "100000"], r"plain_text_document has [\d,]+ tokens, .* takes 100,001: .* a shorter"),
    ],
)
def test_data_that_cannot_be_learned_from(folder: Path, argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_parts(look(*with_shards(folder, argv)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "argv",
    [
        ["A", "--split", "90,10,0", "--eval-iters", "0"],  # Megatron takes a single shard whole
        ["0.7", "A", "0.3", "B", "--split", "90,10,0", "--eval-iters", "1"],
        ["0.7", "A", "0.3", "B", "--split", "90,10,0"],
        ["0.7", "A", "0.3", "B", "--split", "1,0,0", "--eval-iters", "0"],
        ["A", "B", "--split", "9,1", "--eval-iters", "0", "--full-validation"],
        ["--train-data-path", "A", "B", "--valid-data-path", "1", "A", "--eval-iters", "0"],
    ],
)
def test_data_that_can(folder: Path, argv: list[str]) -> None:
    check_parts(look(*with_shards(folder, argv)))


def with_shards(folder: Path, argv: list[str]) -> list[str]:
    names = {"A": str(folder / "plain_text_document"), "B": str(folder / "built_text_document")}
    argv = [names.get(item, item) for item in argv]
    return argv if argv[0].startswith("--") else ["--data-path", *argv]


def test_reflections_count_for_the_length_of_a_shard(folder: Path) -> None:
    """A sequence may be as long as the shard with its reflections, less the token after it."""
    plain, sidecar = folder / "plain_text_document", folder / "w8_plain_text_document.srp"
    tokens = int(ReflectedIndexedDataset(plain, sidecar).sequence_lengths.sum())
    argv = ["--data-path", plain, "--srp-sidecar", sidecar, "--seq-length"]
    check_parts(look(*argv, tokens - 1))
    with pytest.raises(UsageError, match=re.escape(f"has {tokens:,} tokens, and a sequence of --seq-length {tokens} ")):
        check_parts(look(*argv, tokens))
