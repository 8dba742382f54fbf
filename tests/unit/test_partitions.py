"""The split of the input over machines, and that its partitions joined are the single run."""

import gzip
import json
import random
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_srp.annotation.corpus_job.annotator import Annotator
from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.cli.annotate import main as annotate
from megatron_srp.cli.merge import main as merge
from megatron_srp.cli.preprocess import main
from megatron_srp.corpus import file_parts
from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.corpus.partitions import Partition, parse_name, split_by_size
from megatron_srp.data.preprocess.labels_by_row import StoreLabeler
from megatron_srp.data.preprocess.text_pipeline import Preprocessor
from megatron_srp.data.shards.parts import find_parts
from megatron_srp.errors import InputError, UsageError
from megatron_srp.files import file_fingerprint
from megatron_srp.training.host.source_rows import source_row
from tests.conftest import KeywordGuard, random_texts


@pytest.fixture
def job(tokenizer_models, write_jsonl, tmp_path):
    """Flags of a job over five files of uneven size; the shards go under `tmp_path / "o"`."""
    kind, model = tokenizer_models["gpt2"]
    texts = random_texts(61, 120, most_words=120)
    cuts = [0, 5, 60, 61, 90, 120]
    files = [str(write_jsonl(texts[a:b], f"in{i}.jsonl")) for i, (a, b) in enumerate(pairwise(cuts))]
    flags = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod", "--max-words", "20"]
    return ["--input", *files, *flags, "--guard", "heuristic", "--workers", "1"]


@pytest.mark.parametrize("seed", range(20))
def test_the_split_is_complete_in_order_and_even(seed):
    rng = random.Random(seed)
    sizes = [rng.randrange(1, 1000) for _ in range(rng.randrange(1, 60))]
    count = rng.randrange(1, 80)
    parts = split_by_size(sizes, count)
    assert [i for part in parts for i in part] == list(range(len(sizes)))
    used = min(count, len(sizes))
    assert [bool(part) for part in parts] == [True] * used + [False] * (count - used)
    most = max(sum(sizes[i] for i in part) for part in parts)
    assert most <= sum(sizes) / count + 2 * max(sizes)


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([1, 1, 1, 1], 2, [2, 2]),
        ([10, 1, 1, 1], 2, [1, 3]),
        ([1, 1, 1, 10], 2, [3, 1]),
        ([0, 0, 0], 2, [2, 1]),
        ([5], 3, [1, 0, 0]),
        ([1, 1, 1, 1, 1], 4, [1, 1, 2, 1]),
    ],
)
def test_the_rule(sizes, count, expected):
    assert [len(part) for part in split_by_size(sizes, count)] == expected


def test_one_index_serves_annotation_and_preprocessing(write_jsonl, tmp_path):
    """Each partition is prepared from the verdicts of the same partition alone, while the others are not there yet."""
    texts = random_texts(62, 60, most_words=60)
    cuts = [0, 2, 40, 42, 44, 60]
    files = [write_jsonl(texts[a:b], f"in{i}.jsonl") for i, (a, b) in enumerate(pairwise(cuts))]
    split = [InputFiles(files, Partition(index, 3)) for index in range(3)]
    for index, part in enumerate(split):
        own = part.own
        store = AnnotationStore.create(tmp_path / f"s{index}", {"guard": "k", "revision": "1", "max_words": 20})
        Annotator(part, store, KeywordGuard(), 20).run()
        annotated = {path.parent.name for path in store.folder.glob("text/*/*.parquet")}
        assert annotated == {file_fingerprint(file) for file in own}
        StoreLabeler(store, "text", [file.name for file in own], [file_fingerprint(file) for file in own], 20)
    assert [file for part in split for file in part.own] == files


def test_each_partition_is_an_output_of_its_own(job, tmp_path, capsys):
    for index in range(3):
        assert (
            main(
                [*job, "--output-prefix", str(tmp_path / "o"), "--num-partitions", "3", "--partition-index", str(index)]
            )
            == 0
        )
    parts = find_parts([tmp_path / "o"])
    assert [part.prefix.name for part in parts] == [f"o-0000{i}-of-00003" for i in range(3)]
    assert [f["file"] for part in parts for f in part.manifest["inputs"]] == [f"in{i}.jsonl" for i in range(5)]
    assert f"{tmp_path / 'o-00002-of-00003_text_document'}.bin" in capsys.readouterr().out


def test_more_partitions_than_files_leave_some_with_nothing_to_do(job, tmp_path, capsys):
    flags = [*job, "--output-prefix", str(tmp_path / "o"), "--num-partitions", "7", "--partition-index"]
    assert main([*flags, "5"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "5 input files in 7 partitions: none is left for partition 5"
    assert not list(tmp_path.glob("o*"))
    for index in range(5):
        main([*flags, str(index)])
    assert len(find_parts([tmp_path / "o"])) == 5


def test_a_partition_without_text_is_no_error(job, write_jsonl, tmp_path):
    files = [str(write_jsonl(texts, name)) for texts, name in ((["a text"], "a.jsonl"), ([""], "b.jsonl"))]
    at = job.index("--tokenizer-type")
    flags = ["--input", *files, *job[at:], "--output-prefix", str(tmp_path / "o"), "--num-partitions", "2"]
    assert [main([*flags, "--partition-index", str(i)]) for i in range(2)] == [0, 0]
    counts = json.loads((tmp_path / "o-00001-of-00002.srp.json").read_text())["counts"]
    assert (counts["documents"], counts["empty_documents"]) == (0, 1)


def test_what_is_missing_of_a_set_is_named(job, tmp_path):
    flags = [*job, "--output-prefix", str(tmp_path / "o"), "--num-partitions", "5", "--partition-index"]
    for index in (0, 2, 4):
        main([*flags, str(index)])
    (tmp_path / "o-00003-of-00005.srp-work").mkdir()
    with pytest.raises(InputError, match=r"of 5 partitions 2 are missing: 1 \(not there\), 3 \(not finished\)"):
        find_parts([tmp_path / "o"])
    with pytest.raises(InputError, match=r"missing: 0 \(not named\), 1 \(not there\), 3"):
        find_parts([tmp_path / "o-00004-of-00005", tmp_path / "o-00002-of-00005.srp.json"])
    with pytest.raises(InputError, match="o-00003-of-00005 is not finished"):
        find_parts([tmp_path / "o-00003-of-00005"])
    main([*flags[:-2], "2", "--partition-index", "0"])
    with pytest.raises(UsageError, match="made in 2 and in 5 partitions"):
        find_parts([tmp_path / "o"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num-partitions 2", "--num-partitions alone"),
        ("--partition-index 0", "--partition-index alone"),
        ("--num-partitions 0 --partition-index 0", "pass a number from 1"),
        ("--num-partitions 2 --partition-index 2", "pass 0 to 1"),
        ("--num-partitions 2 --partition-index -1", "pass 0 to 1"),
        ("--executor ray", "pass --num-partitions"),
        ("--executor ray --num-partitions 2 --partition-index 0", "drop --partition-index"),
        ("--no-merge", "--no-merge is for --executor ray only"),
        ("--ray-address auto", "--ray-address is for --executor ray only"),
    ],
)
def test_flags_that_do_not_fit_are_refused(job, tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        main([*job, "--output-prefix", str(tmp_path / "o"), *flags.split()])
    assert not list(tmp_path.glob("o*"))


def test_names():
    assert parse_name("a/b-00003-of-00016") == ("a/b", 3, 16)
    assert parse_name(Path("b-3-of-16")) is None
    assert parse_name("b") is None


def write_parquet(texts: list[str], path: Path) -> Path:
    pq.write_table(pa.table({"text": texts}), path, row_group_size=7)
    return path


@pytest.fixture(params=["jsonl", "parquet"])
def one_file(request, write_jsonl, tmp_path, monkeypatch) -> Path:
    """A file of some kilobytes that is large enough to be divided."""
    monkeypatch.setattr(file_parts, "LEAST_BYTES", 100)
    texts = random_texts(63, 150, most_words=90)
    if request.param == "parquet":
        return write_parquet(texts, tmp_path / "in.parquet")
    path = write_jsonl(texts, "in.jsonl")
    path.write_text("\n" + path.read_text().replace("\n", "\n\n", 40).removesuffix("\n"))  # blank lines are rows too
    return path


@pytest.mark.parametrize("count", [2, 5, 40])
def test_the_rows_of_a_file_are_divided(one_file, count):
    split = [InputFiles([one_file], Partition(index, count)) for index in range(count)]
    parts = [part for files in split for part in files.own_parts]
    assert (parts[0].start, parts[-1].stop) == (0, None)
    assert all(one.stop == following.start for one, following in pairwise(parts))
    assert len(parts) > count // 2 and sum(part.size for part in parts) <= one_file.stat().st_size
    (whole,) = InputFiles([one_file]).own_parts
    assert whole.is_whole


def test_a_compressed_file_and_a_small_one_stay_whole(one_file, write_jsonl, tmp_path, monkeypatch):
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "a"}\n' * 5000 + random.Random(1).randbytes(5000)))
    assert [piece.number for piece in InputFiles([packed], Partition(0, 4)).pieces] == [0]
    monkeypatch.undo()
    assert [piece.number for piece in InputFiles([one_file], Partition(0, 4)).pieces] == [0]


def contents(prefix: Path) -> dict[str, bytes]:
    files = [Path(f"{prefix}_text_document.{suffix}") for suffix in ("bin", "idx", "srp")]
    return {file.suffix: file.read_bytes() for file in files}


@pytest.mark.parametrize("stored", [False, True])
def test_partitions_of_one_file_joined_are_the_single_run(job, one_file, tmp_path, stored):
    """Each annotates and prepares its own rows, and nothing else is there yet, or is needed."""
    flags = ["--input", str(one_file), *job[job.index("--tokenizer-type") : job.index("--guard")], "--workers", "1"]
    judge = ["--input", str(one_file), "--guard", "heuristic", "--max-words", "20", "--chunk-documents", "9"]
    store = str(tmp_path / "store")
    source = ["--store", store] if stored else ["--guard", "heuristic"]
    for index in range(3):
        part = ["--num-partitions", "3", "--partition-index", str(index)]
        if stored:
            assert annotate([*judge, "--store", store, *part]) == 0
        assert main([*flags, *source, *part, "--output-prefix", str(tmp_path / "o")]) == 0
    assert main([*flags, *source, "--output-prefix", str(tmp_path / "single")]) == 0
    merge([str(tmp_path / "joined"), str(tmp_path / "o")])
    assert contents(tmp_path / "joined") == contents(tmp_path / "single")
    joined, single = (json.loads((tmp_path / f"{name}.srp.json").read_text()) for name in ("joined", "single"))
    assert joined["counts"] == single["counts"]
    [whole], parts = single["inputs"], joined["inputs"]
    assert sum(part["num_rows"] for part in parts) == whole["num_rows"]
    assert {(part["file"], part["fingerprint"]) for part in parts} == {(whole["file"], whole["fingerprint"])}
    assert [part["rows"][0] for part in parts[1:]] == [part["rows"][1] for part in parts[:-1]]
    rows = json.loads((tmp_path / "o-00001-of-00003.srp.json").read_text())["inputs"][0]["rows"]
    assert source_row(str(tmp_path / "o-00001-of-00003_text_document"), 4) in (None, (one_file.name, rows[0] + 5))


def test_a_killed_partition_of_a_file_resumes_while_others_annotate(job, one_file, tmp_path, monkeypatch):
    flags = ["--input", str(one_file), *job[job.index("--tokenizer-type") : job.index("--guard")], "--workers", "1"]
    judge = ["--input", str(one_file), "--guard", "heuristic", "--max-words", "20", "--store", str(tmp_path / "store")]
    parts = [["--num-partitions", "2", "--partition-index", str(index)] for index in range(2)]
    prepare = [*flags, "--store", str(tmp_path / "store"), "--chunk-documents", "10", "--output-prefix"]
    assert annotate([*judge, *parts[1]]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Preprocessor, "_count", stop_at(30))
        with pytest.raises(KeyboardInterrupt):
            main([*prepare, str(tmp_path / "o"), *parts[1]])
    assert annotate([*judge, *parts[0]]) == 0
    assert [main([*prepare, str(tmp_path / "o"), *part]) for part in parts] == [0, 0]
    assert main([*prepare, str(tmp_path / "single")]) == 0
    merge([str(tmp_path / "joined"), str(tmp_path / "o")])
    assert contents(tmp_path / "joined") == contents(tmp_path / "single")


def stop_at(documents: int):
    seen, count = [], Preprocessor._count

    def counting(self, batch, reflected):
        count(self, batch, reflected)
        seen.extend(batch.rows)
        if len(seen) >= documents:
            raise KeyboardInterrupt

    return counting
