"""Disks that are full or read-only, inputs that vanish or change: a clear line, and nothing committed is lost."""

import os
import subprocess
from pathlib import Path

import pytest
from pyarrow import parquet

from megatron_srp.annotation.guards.ensemble import EnsembleGuard
from megatron_srp.cli.preprocess import main
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder
from megatron_srp.data.preprocess.text_pipeline import Preprocessor
from megatron_srp.data.shards.output import Output
from megatron_srp.errors import InputError, OutputError, UsageError
from tests.conftest import KeywordGuard, random_texts
from tests.helpers.corpus_files import write
from tests.helpers.killing import contents
from tests.unit.test_annotation_store import annotate

TEXTS = random_texts(71, 400, most_words=60)


@pytest.fixture
def mount():
    """Mounts as `mount ARGUMENTS` does, for the test's time."""
    mounted: list[Path] = []

    def run(place: Path, *arguments: object) -> None:
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *map(str, arguments), place], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting needs root and the right to: {done.stderr.strip()}")
        mounted.append(place)

    yield run
    for place in reversed(mounted):
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def job(tokenizer_models, tmp_path, monkeypatch):
    """Runs the data job on two files, and returns what it left."""
    monkeypatch.setattr("megatron_srp.corpus.readers.BATCH_BYTES", 10_000)
    kind, model = tokenizer_models["gpt2"]
    flags = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod", "--max-words", "8"]
    flags += ["--input", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--chunk-documents", "20"]
    for name, texts in (("a.jsonl", TEXTS[:200]), ("b.jsonl", TEXTS[200:])):
        write(tmp_path / name, texts)

    def run(folder: Path, *more: str) -> dict[str, bytes]:
        judge = () if "--store" in more else ("--guard", "heuristic")
        assert main([*flags, *judge, "--output-prefix", str(folder / "c"), *more]) == 0
        return contents(folder)

    return run


def committed(folder: Path) -> bool:
    """Whether a half-done run lies there with its journal, and nothing that looks finished."""
    assert not (folder / "c.srp.json").exists()
    return (folder / "c.srp-work" / "journal.json").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95, 1.03])
def test_a_full_disk(share, job, mount, tmp_path):
    """It fills as the run begins, as it writes its streams, or as it writes index and sidecar beside them."""
    whole = job(tmp_path / "whole")
    small = tmp_path / "small"
    mount(small, "-t", "tmpfs", "-o", f"size={int(share * sum(map(len, whole.values())))}", "tmpfs")
    with pytest.raises(OutputError, match="No space left on device") as error:
        job(small)
    assert error.value.exit_code == 1 and "\n" not in str(error.value)
    assert committed(small)
    subprocess.run(["mount", "-o", "remount,size=10m", small], check=True)
    assert job(small) == whole


def test_a_read_only_folder(job, mount, tmp_path):
    whole = job(tmp_path / "whole")
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "b.jsonl").rename(tmp_path / "b.away")
    (tmp_path / "b.jsonl").write_text("not JSON\n")
    with pytest.raises(InputError, match=r"b\.jsonl, line 1"):
        job(place)
    assert committed(place)
    (tmp_path / "b.away").rename(tmp_path / "b.jsonl")
    mount(place, "--bind", place)
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
    for folder in (place, place / "new"):
        with pytest.raises(OutputError, match="Read-only file system"):
            job(folder)
    subprocess.run(["mount", "-o", "remount,bind,rw", place], check=True)
    with pytest.raises(UsageError, match=r"inputs\[b\.jsonl\]\.fingerprint was"):  # the bad file was recorded
        job(place)
    assert job(place, "--overwrite") == whole


@pytest.fixture
def at_batch(monkeypatch):
    """Does something when a batch of that number has been written."""

    def set_up(number: int, action) -> None:
        original, count = Preprocessor._count, iter(range(10**6))

        def counted(self, *arguments) -> None:
            original(self, *arguments)
            if next(count) == number:
                action()

        monkeypatch.setattr(Preprocessor, "_count", counted)

    return set_up


def test_an_input_that_vanishes(job, at_batch, tmp_path):
    whole, folder = job(tmp_path / "whole"), tmp_path / "out"
    at_batch(3, lambda: (tmp_path / "b.jsonl").rename(tmp_path / "b.away"))
    with pytest.raises(InputError, match=r"b\.jsonl: No such file.*; restore the file") as error:
        job(folder)
    assert error.value.exit_code == 2 and committed(folder)
    with pytest.raises(UsageError, match=r"b\.jsonl: no such file"):
        job(folder)
    (tmp_path / "b.away").rename(tmp_path / "b.jsonl")
    assert job(folder) == whole


def test_an_input_that_changes_as_it_is_read(job, at_batch, tmp_path, capsys):
    def append() -> None:
        with (tmp_path / "a.jsonl").open("a") as file:
            file.write('{"text": "One more."}\n')

    at_batch(15, append)
    with pytest.raises(InputError, match=r"a\.jsonl changed while it was read; pass --overwrite"):
        job(tmp_path / "out")
    assert committed(tmp_path / "out")
    with pytest.raises(UsageError, match=r"inputs\[a\.jsonl\]\.fingerprint was"):
        job(tmp_path / "out")
    assert "warning" not in capsys.readouterr().err
    job(tmp_path / "out", "--overwrite")
    moment = (tmp_path / "a.jsonl").stat().st_mtime + 100
    os.utime(tmp_path / "a.jsonl", (moment, moment))
    job(tmp_path / "out", "--overwrite")
    assert "a.jsonl was modified since this run began, though its size" in capsys.readouterr().err


def test_verdicts_that_change_between_kill_and_resume(job, at_batch, tmp_path, capsys):
    store, files = tmp_path / "store", [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]

    def stop() -> None:
        raise KeyboardInterrupt

    annotate(store, files)
    flags = ("--store", str(store), "--max-words", "10")
    whole = job(tmp_path / "whole", *flags)
    parts = sorted((store / "text").rglob("*.parquet"))
    for change, refused in [
        (lambda: parts[-1].unlink(), False),  # verdicts that are not needed yet
        (lambda: [parquet.write_table(parquet.read_table(part), part, compression="none") for part in parts], True),
    ]:
        at_batch(6, stop)
        folder = tmp_path / str(refused)
        with pytest.raises(KeyboardInterrupt):
            job(folder, *flags)
        kept = {part: part.read_bytes() for part in parts}
        change()
        at_batch(10**6, stop)
        if refused:
            with pytest.raises(UsageError, match=r"verdicts of the documents that were written before .* have changed"):
                job(folder, *flags)
        for part, data in kept.items():
            part.write_bytes(data)
        assert job(folder, *flags) == whole


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--max-words", "9"], "max_words was 8, now 9"),
        (["--json-keys", "text", "id"], 'keys was ["text"], now ["text", "id"]'),
        (["--guard", "none"], 'guard was "heuristic", now "none"'),
        (["--reflection-tokens", "special"], 'reflection.tokens was "text", now "special"'),
        (["--stop-after", "Unsafe"], 'reflection.stop_after was ["Controversial", "Unsafe"], now ["Unsafe"]'),
        (["--controversial", "safe"], 'reflection.controversial was "keep", now "safe"'),
        (["--input", "b.jsonl", "a.jsonl"], "inputs[b.jsonl].file was "),
        (["--input", "a.jsonl"], "inputs was "),
        (["--tokenizer-model", "llama3"], "tokenizer.fingerprint was "),
        (["--workers", "3", "--chunk-documents", "7"], None),
    ],
)
def test_every_setting_that_decides_the_result_is_compared(flags, named, job, at_batch, tokenizer_models, tmp_path):
    """A half-done run with other flags is refused, and one whose flags decide only how fast it is goes on."""

    def stop() -> None:
        raise KeyboardInterrupt

    at_batch(3, stop)
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "out")
    at_batch(10**6, stop)
    places = {"a.jsonl": tmp_path / "a.jsonl", "b.jsonl": tmp_path / "b.jsonl", "llama3": tokenizer_models["llama3"][1]}
    flags = [str(places.get(flag, flag)) for flag in flags]
    if named is None:
        assert job(tmp_path / "out", *flags) == job(tmp_path / "whole")
        return
    with pytest.raises(UsageError, match="half-done run with other settings") as error:
        job(tmp_path / "out", *flags)
    assert named in str(error.value).replace(",", ", ").replace("  ", " ")


@pytest.mark.parametrize("rows", [5, 120], ids=["in the first batch", "later"])
def test_a_run_that_a_malformed_row_stopped_resumes_as_its_message_says(rows, job, tmp_path):
    for name, texts in (("a.jsonl", TEXTS[:rows]), ("b.jsonl", TEXTS[rows:200])):
        write(tmp_path / name, texts)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"text": "broken\n')
    with pytest.raises(InputError, match=rf"a.jsonl, line {rows + 1}: not valid JSON .* or pass --on-error skip"):
        job(tmp_path / "out")
    resumed = job(tmp_path / "out", "--on-error", "skip")
    assert resumed == job(tmp_path / "whole", "--on-error", "skip")


def test_a_run_that_skips_does_not_become_one_that_stops(tmp_path):
    output = Output(tmp_path / "c", {"on_error": "skip"}, [])
    output.commit({"chunks": 1})
    output.close()
    with pytest.raises(UsageError, match='on_error was "skip", now "stop"'):
        Output(tmp_path / "c", {"on_error": "stop"}, [])


def begin(builder):
    """Stop after the first commit: a run that has committed nothing begins again, whatever its settings."""
    builder.commit({"chunks": 1})
    builder.close()


def test_another_revision_of_a_guard_is_another_guard(tokenizer, tmp_path):
    class Guard(KeywordGuard):
        revision = "2"

    begin(ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=KeywordGuard()))
    with pytest.raises(UsageError, match='guard_revision was "1", now "2"'):
        ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=Guard())


def test_an_ensemble_of_another_rule_is_another_guard(tokenizer, tmp_path):
    members = {"a": KeywordGuard(), "b": KeywordGuard()}
    guards = [EnsembleGuard(members, rule) for rule in ("majority", "any-unsafe")]
    begin(ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=guards[0]))
    with pytest.raises(UsageError, match=r'guard_settings\.rule was "majority", now "any-unsafe"'):
        ReflectionIndexedDatasetBuilder(tmp_path / "c", tokenizer, guard=guards[1])
