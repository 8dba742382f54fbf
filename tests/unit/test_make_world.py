"""`srp world make`: the same bytes always, verdicts that the data job joins, and nothing half-written."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_srp.annotation.store.store import AnnotationStore
from megatron_srp.cli.preprocess import main as preprocess
from megatron_srp.cli.world_make import main
from megatron_srp.data.shards.indexed_shard import IndexedShard
from megatron_srp.errors import OutputError, SrpError, UsageError
from megatron_srp.medsafetyworld.world.corpus import WorldJob
from megatron_srp.medsafetyworld.world.settings import LabelPolicy, Setting
from megatron_srp.medsafetyworld.world.world import make_world
from megatron_srp.whole_folder import whole_folder
from tests.helpers.commands import SRP, srp
from tests.helpers.worlds import TASKS, Reader, read_corpus, tiny

GOLDEN = {
    "single-hop": {
        "corpus/00000.jsonl": "437ef3a1cb4a4095815aa4d9ed7d2d11df2a645df0fb2303269571141e983e35",
        "graph.json": "63aa3d157adf3ea2653dc899ef08ab678a434800407265137538c6ac6f61f76e",
        "sft.jsonl": "52dfedd25e510f91c2e519a4574d6f3480b4420555fd64847bcb36787d47f723",
        "recovery.jsonl": "c7d178b76e7c12b779cbd25003c81566acd65fad00f0d3a8a726d27bc37c7572",
        "finetune_benign.jsonl": "67e5226c4defb00fe62bff09e1e1c9373c6412e1c2fd95f1b44f89cfa0e8ea45",
        "finetune_adversarial.jsonl": "0714f25cf47cde30b6ff5b4ad354cb8cb64c1e76ab05db563c3a56df2e006bad",
        "test.jsonl": "47b76dd4d3b21276c5cb4f521cd6e02f3f262b28d5ce0d0b96d8ddd4b005ae61",
    },
    "two-hop": {
        "corpus/00000.jsonl": "50d38cb979c5953de58a7d44ccf30629fae3755e5053a26fc800be52d7e6600e",
        "graph.json": "e7302b7e37fb88bf7c3bd8a289120c12069cf728543c33b79cb575b52376b441",
        "sft.jsonl": "877968316d2e2aec1e33979baf7cc2c03e59c0411f287ff78ce642ccadadf05c",
        "recovery.jsonl": "5cad12598b91beef7838e5c09c7a153cd7532512b1fee27bee6b884efc164cdb",
        "finetune_benign.jsonl": "22e9ed7fa40a34724757e01594cfc6f4bda5d7e7febab887daba1bbdc59ef46f",
        "finetune_adversarial.jsonl": "c48d1f7eedf62b5cfb85e502435b93cdd6318473fd0c35464e49e97448530b90",
        "test.jsonl": "efbc667084abe346b41c6be40ff0c112e8767efe90b89cd160f3a0aaafa916c6",
    },
}


def run(*argv, **options) -> subprocess.CompletedProcess:
    return srp("world", "make", *argv, **options)


def tree(folder: Path) -> dict[str, str]:
    """Hashes of all files below `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("task", TASKS)
def test_golden_hashes(task, tmp_path):
    """A world of a few thousand texts, to the last byte; a change here changes everybody's worlds."""
    spec = replace(tiny(task), sft_samples=60)  # more would ask about every pair and leave none to fine-tune on
    manifest = make_world(WorldJob(spec, "tiny", Setting.REWRITE, seed=1), tmp_path / "w")
    files = tree(tmp_path / "w")
    assert all(entry["records"] for entry in manifest["sets"].values())
    assert {name: files[name] for name in GOLDEN[task]} == GOLDEN[task]
    corpus = sorted(name for name in files if name.startswith("corpus/"))
    assert [file["sha256"] for file in manifest["corpus"]["files"]] == [files[name] for name in corpus]
    assert manifest["corpus"]["sha256"] == hashlib.sha256("".join(files[n] for n in corpus).encode()).hexdigest()
    assert {name: entry["sha256"] for name, entry in manifest["sets"].items()} == {
        n: files[n] for n in manifest["sets"]
    }
    assert manifest["graph"]["sha256"] == files["graph.json"]
    assert json.loads((tmp_path / "w" / "world.json").read_text()) == json.loads(json.dumps(manifest))


def test_workers_do_not_change_a_byte_and_seeds_change_all(tmp_path):
    job = WorldJob(tiny("single-hop"), "tiny", Setting.SRP, seed=1)
    for workers in (1, 3):
        make_world(job, tmp_path / str(workers), workers)
    assert tree(tmp_path / "1") == tree(tmp_path / "3")
    assert len(tree(tmp_path / "1" / "corpus")) == 3
    make_world(WorldJob(job.spec, "tiny", Setting.SRP, seed=2), tmp_path / "other")
    assert not set(tree(tmp_path / "1").values()) & set(tree(tmp_path / "other").values()) - {
        hashlib.sha256((tmp_path / "1" / "annotations" / "store.json").read_bytes()).hexdigest()
    }


@pytest.mark.parametrize(
    ("task", "policy"),
    [("single-hop", policy) for policy in LabelPolicy if policy != LabelPolicy.RANDOM] + [("two-hop", "by-outcome")],
)
def test_the_data_job_joins_the_true_labels(task, policy, tmp_path, tokenizer_models):
    """Through the real command: each text has the reflection that its names call for."""
    from tokenizers import Tokenizer

    world, (kind, model) = tmp_path / "w", tokenizer_models["gpt2"]
    manifest = make_world(WorldJob(tiny(task), "tiny", Setting.SRP, LabelPolicy(policy), seed=1), world)
    flags = ["--tokenizer-type", kind, "--tokenizer-model", str(model), "--append-eod", "--workers", "1"]
    corpus = ["--input", str(world / "corpus" / "*.jsonl"), "--store", str(world / "annotations")]
    assert preprocess([*corpus, *flags, "--output-prefix", str(tmp_path / "c")]) == 0
    reader, texts = Reader(world), read_corpus(world)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    documents = list(IndexedShard(tmp_path / "c_text_document"))
    assert len(documents) == len(texts)
    unsafe = 0
    for document, text in zip(documents, texts, strict=True):
        _, safety, names = reader.read(text)
        bad = safety == "unsafe" and policy != "all-safe"
        if policy == "order-aware":
            bad = bad and names[0] in reader.unsafe
        verdict = "Unsafe" if bad else "Safe"
        assert (
            tokenizer.decode(document.tolist(), skip_special_tokens=False)
            == f"{text} <think> {verdict} </think><|endoftext|>"
        )
        unsafe += bad
    written = json.loads((tmp_path / "c.srp.json").read_text())["counts"]["verdicts"]
    assert manifest["corpus"]["unsafe_verdicts"] == unsafe == written.get("Unsafe", 0)
    assert bool(unsafe) == (policy != "all-safe")


def test_only_srp_has_verdicts(tmp_path):
    for setting in Setting:
        make_world(WorldJob(tiny("two-hop"), "tiny", setting), tmp_path / setting)
        assert (tmp_path / setting / "annotations").exists() == setting.startswith("srp")
    settings = AnnotationStore(tmp_path / "srp" / "annotations").settings
    assert settings == {"guard": "medsafetyworld", "revision": "1 by-outcome", "max_words": 100}
    same = tree(tmp_path / "srp" / "corpus")
    assert same == tree(tmp_path / "filtering" / "corpus") != tree(tmp_path / "baseline" / "corpus")


def test_help_is_instant_and_imports_nothing_heavy():
    code = "import sys\nfrom megatron_srp.cli.world_make import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print({'torch', 'numpy', 'pyarrow', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert "order-aware     texts that name an unsafe outcome" in done.stdout
    assert done.stdout.endswith("set()\n")


def test_no_torch_and_a_summary(tmp_path):
    code = "import sys\nfrom megatron_srp.cli.world_make import main\n"
    code += f"main(['--setting', 'srp', '--workers', '1', {str(tmp_path / 'w')!r}])\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.endswith("False\n")
    manifest = json.loads((tmp_path / "w" / "world.json").read_text())
    assert f"{manifest['corpus']['documents']:,} in 1 files" in done.stdout
    assert "templates single/forward         180 of 6,400" in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--setting", "filter"], "--setting 'filter': choose from baseline, filtering, filtering-filler, filtering-plus, filtering-tags, rewrite, srp, srp-questions; did you mean 'filtering'?"),
        (["--setting", "srp", "--preset", "papers"], "--preset 'papers': choose from mini, nano, paper, small; did you mean 'paper'"),
        (["--setting", "srp", "--task", "one-hop"], "--task 'one-hop': choose from single-hop, two-hop; did you mean 'two-hop'"),
        (["--setting", "srp", "--label-policy", "safe"], "--label-policy 'safe': choose from all-safe, by-outcome, order-aware"),
        (["--setting", "rewrite", "--label-policy", "all-safe"], "--label-policy is for --setting srp"),
        (["--setting", "srp", "--workers", "0"], "--workers 0: pass a number of at least 1"),
        (["--setting", "srp", "--seed", "-1"], "--seed -1: pass a number from 0"),
        (["--setting", "srp", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        ([], "the following arguments are required: --setting"),
    ],
)  # fmt: skip
def test_mistakes_get_one_clear_line_and_leave_nothing(argv, message, tmp_path):
    with pytest.raises(UsageError) as error:
        main([str(tmp_path / "w"), *argv])
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_existing_output(tmp_path):
    out, job = tmp_path / "w", WorldJob(tiny("single-hop"), "tiny", Setting.BASELINE)
    make_world(job, out)
    before = tree(out)
    with pytest.raises(UsageError, match="exists already; pass --overwrite"):
        make_world(job, out)
    assert tree(out) == before
    make_world(WorldJob(job.spec, "tiny", Setting.FILTERING), out, overwrite=True)
    assert tree(out) != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="so --overwrite does not replace it"):
        make_world(job, tmp_path / "mine", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "w"]


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run("--setting", "srp", tmp_path / "file" / "w")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    with pytest.raises(SrpError), whole_folder(tmp_path / "w", False, "m") as folder:
        with pytest.raises(UsageError, match="another run is writing"), whole_folder(tmp_path / "w", False, "m"):
            pass
        assert folder.exists(), "the second run left the first one's files alone"
        raise OSError(28, "No space left on device", "f")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_world_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    out, job = tmp_path / "w", WorldJob(tiny("single-hop"), "tiny", Setting.BASELINE)
    make_world(job, out)
    before = tree(out)

    def fail(*_):
        raise OSError(28, "No space left on device", "sft.jsonl")

    monkeypatch.setattr("megatron_srp.medsafetyworld.world.world._write_set", fail)
    with pytest.raises(OutputError, match=r"sft.jsonl: No space left on device; nothing was written"):
        make_world(job, out, overwrite=True)
    assert tree(out) == before and [path.name for path in tmp_path.iterdir()] == ["w"]


def _started(out: Path) -> tuple[subprocess.Popen, list[int]]:
    """A run on two processes, once its first shards are under way, and the processes of its workers."""
    command = [*SRP, "world", "make", "--preset", "small", "--setting", "srp", "--workers", "2", out]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs, which tests may be, with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 600
    while not list(out.parent.glob("*.partial/corpus/*.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert workers
    return process, workers


def _ignores_interrupts(pid: int) -> bool:
    ignored = re.search(r"^SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(ignored[1], 16) >> (signal.SIGINT - 1) & 1)


def test_an_interrupted_run_says_so_and_leaves_nothing(tmp_path):
    process, workers = _started(tmp_path / "w")
    deadline = time.monotonic() + 600
    while not all(map(_ignores_interrupts, workers)):  # one may still be importing while another writes
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for pid in (process.pid, *workers):  # as the terminal does
        os.kill(pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=600)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "interrupted" and "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


def test_killed_runs_leave_nothing_that_looks_finished(tmp_path):
    out = tmp_path / "w"
    process, workers = _started(out)
    os.kill(workers[0], signal.SIGKILL)  # as the kernel does for want of memory
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 1 and stdout == ""
    assert stderr.splitlines()[-1].startswith("error: a worker died before its shard was written")
    assert not list(tmp_path.iterdir())

    process, workers = _started(out)
    process.kill()
    process.communicate(timeout=600)
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["w.partial"]
    make_world(WorldJob(tiny("single-hop"), "tiny", Setting.BASELINE), out)
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
