"""The data job as a user runs it: the command line, its errors, and what a kill leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_srp.cli.preprocess import main
from megatron_srp.errors import SrpError
from tests.conftest import random_texts
from tests.helpers.killing import kill_and_resume

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_with_reflections.py"
TEXTS = random_texts(41, 200)


@pytest.fixture
def flags(tokenizer_models, tmp_path):
    kind, model = tokenizer_models["gpt2"]
    return ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod", "--max-words", "20"]


def run(*argv) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, TOOL, *map(str, argv)], capture_output=True, text=True, timeout=600)


def shards(prefix: Path) -> dict[str, bytes]:
    return {suffix: Path(f"{prefix}_text_document.{suffix}").read_bytes() for suffix in ("bin", "idx", "srp")}


def test_help_is_instant_and_imports_no_torch():
    code = (
        "import sys\nfrom megatron_srp.cli import main\ntry: main(['preprocess', '--help'])\nexcept SystemExit: pass\n"
    )
    code += "print({'torch', 'numpy', 'pyarrow', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert "heuristic" in done.stdout
    assert "a list of words, for tests" in " ".join(done.stdout.split())
    assert done.stdout.endswith("set()\n")


def test_no_torch_in_the_whole_job(flags, write_jsonl, tmp_path):
    arguments = [
        "--input",
        str(write_jsonl(TEXTS[:5])),
        *flags,
        "--guard",
        "heuristic",
        "--output-prefix",
        str(tmp_path / "o"),
    ]
    code = (
        f"import sys\nfrom megatron_srp.cli.preprocess import main\nmain({arguments!r})\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.endswith("False\n")


def test_workers_and_chunks_do_not_change_the_result(flags, write_jsonl, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("megatron_srp.corpus.readers.BATCH_BYTES", 20_000)
    source = str(write_jsonl(TEXTS))
    results = []
    for i, (workers, chunk) in enumerate([(1, 100_000), (3, 7), (2, 50)]):
        prefix = tmp_path / f"out{i}" / "c"
        extra = ["--workers", str(workers), "--chunk-documents", str(chunk), "--guard", "heuristic"]
        assert main(["--input", source, *flags, *extra, "--output-prefix", str(prefix)]) == 0
        results.append(shards(prefix) | {"manifest": Path(f"{prefix}.srp.json").read_bytes()})
        assert {path.name.split("c", 1)[1] for path in prefix.parent.iterdir()} == {
            ".srp.json",
            "_text_document.bin",
            "_text_document.idx",
            "_text_document.srp",
        }
    assert results[0] == results[1] == results[2]
    assert "tokens after" in capsys.readouterr().out


def bad(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {"--input": str(d / "none.jsonl")}, "none.jsonl: no such file"),
        (lambda d: {"--input": bad(d, "b.jsonl", b'{"text": "a"}\n{"te')}, "b.jsonl, line 2: not valid JSON"),
        (lambda d: {"--input": bad(d, "b.jsonl", b'{"body": "a"}\n')}, "b.jsonl, line 1: no key 'text'"),
        (lambda d: {"--input": bad(d, "b.jsonl", b'{"text": 3}\n')}, "line 1: 'text' is int"),
        (lambda d: {"--input": bad(d, "b.jsonl", b'{"text": "\xff"}\n')}, "line 1: not valid JSON"),
        (lambda d: {"--input": bad(d, "b.parquet", b"PAR1junk")}, "b.parquet: not a readable Parquet file"),
        (lambda d: {"--input": bad(d, "b.jsonl", b'{"text": ""}\n')}, "no document with text"),
        (lambda d: {"--guard": "heuristics"}, "wildguard; did you mean 'heuristic'"),
        (lambda d: {"--tokenizer-type": "GPT2"}, "--tokenizer-type 'GPT2': choose from GPTSentencePieceTokenizer, "),
        (lambda d: {"--tokenizer-model": str(d / "nothing")}, "it has no tokenizer.json"),
        (lambda d: {"--max-words": "0"}, "--max-words 0"),
        (lambda d: {"--max-words": "ten"}, "--max-words: invalid int value: 'ten'"),
        (lambda d: {"--workers": "0"}, "--workers 0: pass a number of at least 1"),
        (lambda d: {"--stop-after": "Safe"}, "leave Safe out"),
        (lambda d: {"--controversial": "x"}, "--controversial"),
        (lambda d: {"--json-keys": "a/b"}, "neither empty nor contain /"),
        (lambda d: {"--store": str(d / "store")}, "pass either --guard"),
        (lambda d: {"--guard": None, "--store": str(d / "store")}, "not an annotation store"),
        (lambda d: {"--guard": None}, "pass either --guard"),
        (lambda d: {"--nonsense": "1"}, "unrecognized arguments"),
    ],
)
def test_mistakes_get_one_clear_line_and_leave_nothing(change, message, flags, write_jsonl, tmp_path):
    out = tmp_path / "out"
    pairs = dict(zip(flags[:4:2], flags[1:4:2], strict=True))
    pairs |= {"--input": str(write_jsonl(["a"])), "--guard": "heuristic", "--output-prefix": str(out / "c")}
    pairs |= change(tmp_path)
    argv = [word for pair in pairs.items() if pair[1] is not None for word in pair]
    with pytest.raises(SrpError) as error:
        main([*argv, "--append-eod"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    if message != "no document with text":
        assert not list(out.glob("*document*")) and not (out / "c.srp.json").exists()


@pytest.mark.parametrize(("guard", "step"), [("none", "verify"), ("heuristic", "inspect")])
def test_the_next_command_can_be_run(guard, step, flags, write_jsonl, tmp_path, capsys):
    out = str(tmp_path / "o")
    assert main(["--input", str(write_jsonl(["a", "b"])), *flags, "--guard", guard, "--output-prefix", out]) == 0
    assert f"\nnext: srp {step} {out} " in capsys.readouterr().out


def test_exit_codes_and_no_traceback(flags, write_jsonl, tmp_path):
    source = bad(tmp_path, "b.jsonl", b"{}\n")
    done = run("--input", source, *flags, "--guard", "none", "--output-prefix", tmp_path / "o")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    (tmp_path / "file").write_text("in the way")
    done = run("--input", write_jsonl(["a"]), *flags, "--guard", "none", "--output-prefix", tmp_path / "file" / "o")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "choose another --output-prefix" in done.stderr


def test_skipping_bad_rows_counts_and_shows_them(flags, tmp_path, capsys):
    source = bad(tmp_path, "b.jsonl", b'{"text": "a"}\n{}\n{"text": 1}\n{"text": "b"}\n')
    prefix = tmp_path / "o"
    main(["--input", source, *flags, "--guard", "none", "--on-error", "skip", "--output-prefix", str(prefix)])
    manifest = json.loads((tmp_path / "o.srp.json").read_text())
    assert (manifest["counts"]["documents"], manifest["skipped_rows"]) == (2, 2)
    assert "skipped: " in (shown := capsys.readouterr().out)
    assert "line 3: 'text' is int" in shown


def test_a_literal_end_of_text_stays_text(flags, write_jsonl, tmp_path, tokenizer):
    from megatron_srp.data.shards.indexed_shard import IndexedShard

    source = write_jsonl(["Stop here.<|endoftext|> And <think> Unsafe </think><|endoftext|> on."])
    main(["--input", str(source), *flags, "--guard", "none", "--output-prefix", str(tmp_path / "o")])
    (tokens,) = IndexedShard(tmp_path / "o_text_document")
    assert (tokens == tokenizer.eos_id).sum() == 1 and tokens[-1] == tokenizer.eos_id


def test_killed_at_random_moments_and_resumed(flags, write_jsonl, tmp_path):
    """kill -9, then the same command again, until it ends: the bytes are those of an undisturbed run."""
    source = write_jsonl(random_texts(42, 6000, most_words=150))
    job = [
        "--input",
        str(source),
        *flags,
        "--guard",
        "heuristic",
        "--chunk-documents",
        "100",
        "--workers",
        "2",
    ]
    kill_and_resume(job, tmp_path, kills=20, seed=0)
