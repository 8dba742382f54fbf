"""The annotator: what a kill leaves, who may write, and what is told of its progress."""

import random
import re
import signal
import subprocess
import threading

import pyarrow.parquet as pq
import pytest

from megatron_srp.annotation.corpus_job.annotator import Annotator
from megatron_srp.annotation.store.store import AnnotationStore, read_part
from megatron_srp.annotation.store.writers import WriterLock
from megatron_srp.cli.annotate import main
from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.corpus.partitions import Partition
from megatron_srp.errors import SrpError, UsageError
from megatron_srp.files import file_fingerprint
from tests.conftest import KeywordGuard, random_texts
from tests.helpers.commands import SRP
from tests.helpers.corpus_files import write
from tests.helpers.killing import Jobs
from tests.helpers.moody_guard import SETTINGS, MoodyGuard, annotate, contents, write_files


@pytest.fixture
def files(tmp_path, monkeypatch):
    return write_files(tmp_path, monkeypatch)


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(tmp_path):
    """kill -9, then the same command again, until it ends: the parts are those of an undisturbed run."""
    inputs = [write(tmp_path / f"{i}.jsonl", random_texts(70 + i, 500, most_words=150)) for i in range(3)]
    flags = ["--input", *map(str, inputs), "--guard", "heuristic", "--max-words", "10", "--chunk-documents", "40"]
    rng = random.Random(1)
    kills = done = 0
    with Jobs("megatron_srp.cli.annotate") as jobs:
        assert jobs.run([*flags, "--store", str(tmp_path / "whole")])[0] == 0
        expected = contents(tmp_path / "whole")
        while kills < 20 or not done:
            store = tmp_path / f"killed{done}"
            code, _ = jobs.run(
                [*flags, "--workers", "2", "--store", str(store)], rng.uniform(0, 0.15) if kills < 20 else 60
            )
            kills += code == -signal.SIGKILL
            assert code in (0, -signal.SIGKILL)
            if code == 0:
                assert contents(store) == expected
                assert not list((store / "text").rglob("*.tmp"))  # one of store.json may be left by a kill
                done += 1
    segments = [
        segment for name in expected for segment in pq.read_table(tmp_path / "whole" / name)["ends"].to_pylist()
    ]
    assert len(segments) == 1500


def test_a_lost_part_in_the_middle_is_made_again(files, tmp_path):
    annotate(tmp_path / "store", files)
    before = contents(tmp_path / "store")
    lost = sorted(path for path in (tmp_path / "store").rglob("*.parquet"))[1::3]
    for path in lost:
        path.unlink()
    guard = MoodyGuard(cured=True)
    job = annotate(tmp_path / "store", files, guard, workers=3)
    assert contents(tmp_path / "store") == before
    assert job.progress.documents == sum(len(read_part(path).rows) for path in lost) < 240


def test_a_finished_file_is_not_read_again(files, tmp_path):
    annotate(tmp_path / "store", files)
    again = annotate(tmp_path / "store", files).progress
    assert again.resumed == again.consumed == again.size and again.documents == 0
    store = AnnotationStore(tmp_path / "store")
    assert [store.missing("text", file_fingerprint(file)) for file in files] == [[], [], []]
    with_bad_end = write(tmp_path / "bad.jsonl", ["one"]).open("ab")
    with with_bad_end as file:
        file.write(b"\n\n")
    annotate(tmp_path / "store", [tmp_path / "bad.jsonl"])
    assert store.missing("text", file_fingerprint(tmp_path / "bad.jsonl")) == []


def test_workers_do_not_change_the_result(files, tmp_path):
    annotate(tmp_path / "one", files)
    annotate(tmp_path / "four", files, workers=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "four")


def test_scores_are_stored(files, tmp_path):
    annotate(tmp_path / "store", files)
    row = pq.read_table(next((tmp_path / "store").rglob("*.parquet"))).to_pylist()[0]
    lengths = [end - start for start, end in zip([0, *row["ends"]], row["ends"], strict=False)]
    assert row["scores"] == pytest.approx([1 / (1 + length) for length in lengths])


def test_a_second_writer_is_refused_until_the_first_is_gone(files, tmp_path):
    inside, go_on = threading.Event(), threading.Event()

    class SlowGuard(KeywordGuard):
        name = "moody"

        def classify(self, texts):
            inside.set()
            assert go_on.wait(600)
            return super().classify(texts)

    first = threading.Thread(target=annotate, args=(tmp_path / "store", files, SlowGuard()))
    first.start()
    assert inside.wait(600)
    for share in (Partition(), Partition(1, 2)):  # the same work, and another sharing out
        with pytest.raises(
            UsageError, match=r"another run is writing to .*store; wait for it, use another --store, or"
        ):
            annotate(tmp_path / "store", files, partition=share)
    with pytest.raises(UsageError, match="another run is writing"):  # other files, but who knows
        annotate(tmp_path / "store", files[:1])
    go_on.set()
    first.join()
    annotate(tmp_path / "store", files)


def test_disjoint_partitions_write_at_once_and_make_the_same_store(files, tmp_path):
    annotate(tmp_path / "whole", files)
    fingerprints = [file_fingerprint(file) for file in files]
    with WriterLock(AnnotationStore.create(tmp_path / "s", SETTINGS).folder, fingerprints, "text", Partition(0, 2)):
        job = annotate(tmp_path / "s", files, partition=Partition(1, 2))
        assert 0 < len(job.own) < len(files) and job.progress.files == len(job.own)
    flags = [
        "--input",
        *map(str, files),
        "--guard",
        "heuristic",
        "--store",
        str(tmp_path / "h"),
        "--num-partitions",
        "2",
    ]
    runs = [
        subprocess.Popen([*SRP, "annotate", *flags, "--partition-index", str(i)], stdout=subprocess.DEVNULL)
        for i in range(2)
    ]
    annotate(tmp_path / "s", files, partition=Partition(0, 2))
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    assert [run.wait(600) for run in runs] == [0, 0]
    assert len({name.split("/")[1] for name in contents(tmp_path / "h")}) == 3


def test_a_segment_of_a_hundred_thousand_words(tmp_path):
    path = write(tmp_path / "long.jsonl", ["word " * 100_000 + "kill"])
    store = AnnotationStore.create(tmp_path / "store", SETTINGS | {"max_words": 100_000})
    Annotator(InputFiles([path]), store, KeywordGuard(), 100_000).run()
    (part,) = (read_part(path) for path in (tmp_path / "store").rglob("*.parquet"))
    assert part.ends.tolist() == [499_999, 500_004]
    assert [str(part.labels[code].verdict) for code in part.codes] == ["Safe", "Unsafe"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-partitions", "2", "--partition-index", "2"], "partitions are counted from 0; pass 0 to 1"),
        (["--workers", "0"], "--workers 0"),
        (["--max-failure-rate", "2"], "--max-failure-rate 2: pass a share from 0 to 1"),
        (["--json-keys", "a/b"], "--json-keys 'a/b'"),
        (["--guard", "heuristics"], "unknown guard 'heuristics'"),
        (["--guard", "nine"], "unknown guard 'nine', .* choose from .*llama-guard, .*qwen3guard, [^;]*$"),
        (["--max-words", "0"], "--max-words 0"),
    ],
)
def test_mistakes_get_one_line(flags, message, write_jsonl, tmp_path):
    given = {"--input": str(write_jsonl(["a"])), "--guard": "heuristic", "--store": str(tmp_path / "s")}
    given |= dict(zip(flags[::2], flags[1::2], strict=True))
    with pytest.raises(SrpError, match=message) as error:
        main([word for pair in given.items() for word in pair])
    assert "\n" not in str(error.value) and not (tmp_path / "s").exists()


def test_a_folder_that_is_no_store_is_left_alone(write_jsonl, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    flags = ["--input", str(write_jsonl(["a"])), "--guard", "heuristic", "--store"]
    with pytest.raises(UsageError, match=r"thesis is not an annotation store \(no store.json\) and not empty"):
        main([*flags, str(tmp_path / "thesis")])
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "store.json.node7-123.tmp").touch()  # another node is about to make it
    assert main([*flags, str(tmp_path / "new")]) == 0


def test_progress_is_told_as_the_data_job_tells_it(write_jsonl, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("megatron_srp.terminal.display._LOG_EVERY_S", 0.0)
    monkeypatch.setattr("megatron_srp.corpus.readers.BATCH_BYTES", 3000)
    path = write_jsonl(random_texts(1, 30, most_words=100))
    main(["--input", str(path), "--guard", "heuristic", "--store", str(tmp_path / "s"), "--chunk-documents", "5"])
    lines = capsys.readouterr().err.splitlines()
    form = r"file 1/1  \d+%  [\d,]+ documents(  \w+ [\d,]+)+(  [\d.]+ MB/s  [\d,]+ segments/s  \d+ (s|min) left)?"
    assert len(lines) > 2 and all(re.fullmatch(form, line) for line in lines), lines
    assert "100%" in lines[-1]
