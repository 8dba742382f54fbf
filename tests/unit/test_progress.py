"""What the data job shows while it works: on a real terminal, in a log, and after a resume."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from megatron_srp.cli.preprocess import main
from megatron_srp.corpus.readers import read_batches
from megatron_srp.errors import InputError
from megatron_srp.terminal import display, progress
from megatron_srp.terminal.display import ProgressDisplay
from megatron_srp.terminal.progress import Progress, Speed
from tests.conftest import random_texts
from tests.helpers.commands import SRP


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[Path]:
    files = [tmp_path_factory.mktemp("corpus") / f"in{i}.jsonl" for i in range(2)]
    for i, file in enumerate(files):
        texts = random_texts(i, 400)
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 8))
    return files


@pytest.fixture
def flags(tokenizer_models, corpus, tmp_path):
    kind, model = tokenizer_models["gpt2"]
    flags = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod", "--max-words", "20"]
    flags += ["--guard", "heuristic", "--workers", "1", "--output-prefix", str(tmp_path / "o")]
    return ["--input", *map(str, corpus), *flags]


def on_a_terminal(command: list, **environment: str) -> str:
    """What a command shows on a terminal of 100 columns."""
    terminal, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"} | environment
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment, start_new_session=True) as job:
        os.close(end)
        shown = b""
        try:
            while block := os.read(terminal, 1 << 16):
                shown += block
        except OSError:  # the other end is closed
            pass
    os.close(terminal)
    assert job.returncode == 0, shown.decode()
    return shown.decode()


def test_a_live_view_on_a_terminal(flags, corpus, tmp_path):
    last = tmp_path / "last.jsonl"  # enough for a second's work
    last.write_text(corpus[1].read_text() * 6)
    flags = [*flags[:2], str(last), *flags[3:]]
    shown = on_a_terminal([*SRP, "preprocess", *flags])
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"file 2/2 .*\d+% \d+\.\d MB/s [\d,]+ tokens/s \d+ s left", plain)
    assert re.search(r"[\d,]+ documents  Controversial [\d,]+  Safe [\d,]+", plain)
    assert "tokens after" in plain
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is given back


def test_no_control_characters_on_a_dumb_terminal(flags):
    assert "\x1b" not in on_a_terminal([*SRP, "preprocess", *flags], TERM="dumb")


def test_rich_is_imported_for_a_terminal_only(flags, corpus, write_jsonl):
    flags = [*flags[:1], str(write_jsonl(["a text"])), *flags[1 + len(corpus) :]]
    code = f"import sys\nfrom megatron_srp.cli.preprocess import main\nmain({flags!r})\nprint('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.endswith("False\n") and done.stderr == ""


def test_plain_lines_in_a_log(flags, capsys, monkeypatch):
    monkeypatch.setattr(display, "_LOG_EVERY_S", 0.0)
    monkeypatch.setattr("megatron_srp.corpus.readers.BATCH_BYTES", 200_000)
    main(flags)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 10
    form = r"file [12]/2  \d+%  [\d,]+ documents(  \w+ [\d,]+)+(  [\d.]+ MB/s  [\d,]+ tokens/s  \d+ (s|min) left)?"
    assert all(re.fullmatch(form, line) for line in lines), lines
    shares = [int(re.search(r"(\d+)%", line)[1]) for line in lines]
    assert shares == sorted(shares) and shares[0] < 30 and shares[-1] == 100
    assert re.search(r"\b0 s left", lines[-1])


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd", "parquet"])
def test_consumed_bytes_are_those_of_the_file_on_disk(tmp_path, monkeypatch, write_jsonl, form):
    monkeypatch.setattr("megatron_srp.corpus.readers.BATCH_BYTES", 100_000)
    monkeypatch.setattr("megatron_srp.corpus.compression.BLOCK", 10_000)
    texts = [os.urandom(200).hex() + text for text in random_texts(3, 2000)]
    path = write_jsonl(texts)
    if form == "gzip":
        subprocess.run(["gzip", path], check=True)
        path = path.with_name("corpus.jsonl.gz")
    elif form == "zstd":
        path.write_bytes(zstandard.compress(path.read_bytes()))
    elif form == "parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=500)
    size = path.stat().st_size
    consumed = [(batch.end / len(texts), batch.consumed / size) for batch in read_batches([path], ["text"], most=200)]
    assert len(consumed) > 5
    assert all(abs(rows - share) < 0.15 for rows, share in consumed), consumed
    assert consumed[-1][1] == pytest.approx(1, abs=0.001)


def test_time_left_counts_what_this_run_has_read(monkeypatch):
    now = iter([100.0, 110.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    speed = Speed()
    resumed = Progress(1, 1000, consumed=600, resumed=590, bytes=10, tokens=5)
    assert speed.measure(resumed) == {"text": "", "output": "", "left": ""}
    resumed.consumed, resumed.bytes, resumed.tokens = 700, 20_000_010, 5005
    assert speed.measure(resumed) == {"text": "2.0 MB/s", "output": "500 tokens/s", "left": "30 s left"}


def test_a_resumed_run_says_so_and_counts_on(flags, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("megatron_srp.corpus.readers.BATCH_BYTES", 200_000)
    monkeypatch.setattr("megatron_srp.corpus.compression.BLOCK", 50_000)
    last = tmp_path / "last.jsonl"
    last.write_text(corpus[1].read_text() + "no JSON\n")
    flags = [str(last) if flag == str(corpus[1]) else flag for flag in flags]
    with pytest.raises(InputError, match="not valid JSON"):
        main([*flags, "--chunk-documents", "1000"])
    assert "resuming" not in capsys.readouterr().err
    seen = []
    monkeypatch.setattr(ProgressDisplay, "update", lambda self, progress: seen.append(progress + Progress(0, 0)))
    with pytest.raises(InputError, match="not valid JSON"):
        main([*flags, "--chunk-documents", "1000"])
    assert "resuming at file 2 of 2, row " in capsys.readouterr().err
    size = corpus[0].stat().st_size + last.stat().st_size
    assert seen and all(0.5 * size < p.resumed < p.consumed <= p.size == size for p in seen)


def test_the_sum_of_several_runs():
    one = Progress(2, 100, 1, 50, 10, 7, 3, 9, 1, {"Safe": 3})
    assert one + Progress(1, 10, 0, 5, 0, 1, 1, 1, 0, {"Safe": 1, "Unsafe": 2}) == Progress(
        3, 110, 1, 55, 10, 8, 4, 10, 1, {"Safe": 4, "Unsafe": 2}
    )
