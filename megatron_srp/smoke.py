"""The tour of `srp smoke`: a small corpus, reflections, Megatron's trainer, a report; each step a user's command."""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from megatron_srp.annotation import load_guard
from megatron_srp.data.shards.manifest import manifest_path, read_manifest
from megatron_srp.errors import OutputError
from megatron_srp.reports.run_report import write_report
from megatron_srp.reports.scalars import LOSS, Curve, means, read_scalars, right_verdicts
from megatron_srp.schema import AnnotatedDocument, Verdict
from megatron_srp.segmentation import segment_text
from megatron_srp.toy_corpus.chat import write_chat
from megatron_srp.toy_corpus.corpus import texts, train_tokenizer, write_corpus

_TAIL = 15  # lines of a failed step's log
# So many verdicts, and so few that are Safe, that a small model learns to tell them apart within the minute.
_HARMFUL, _MAX_WORDS = 1.0, 20
_TRAINING = "--seq-length 128 --micro-batch-size 8 --lr 4e-3"


def smoke(out: Path, documents: int, steps: int) -> None:
    """Take the tour in the folder `out`, which is emptied first, and print a summary.

    Raises:
        OutputError: when a step fails, with the end of its log.
    """
    begun, out = time.monotonic(), out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_corpus(out / "corpus.jsonl", documents, harmful=_HARMFUL)
    write_chat(out / "chat.jsonl", documents // 2)  # for post-training, examples/sft.sh
    train_tokenizer(out / "tokenizer")
    for i, (step, command) in enumerate(_commands(out, steps).items(), 1):
        run_step(step, command, out / f"step{i}.log")
    _report(out)
    print(f"done in {time.monotonic() - begun:.0f} s")


def _commands(out: Path, steps: int) -> dict[str, list[str]]:
    """The two commands of a real job, as a user would give them."""
    prepare = [sys.executable, "-m", "megatron_srp", "preprocess", "--input", str(out / "corpus.jsonl")]
    prepare += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(out / "tokenizer")]
    prepare += ["--guard", "small", "--append-eod", "--output-prefix", str(out / "corpus"), "--workers", "2"]
    prepare += ["--max-words", str(_MAX_WORDS)]
    train = [sys.executable, "-m", "megatron_srp", "train", "--nproc-per-node", "2"]
    train += ["--srp-preset", "debug", "--tensor-model-parallel-size", "2", *_TRAINING.split()]
    train += ["--data-path", str(out / "corpus_text_document"), "--train-iters", str(steps), "--log-interval", "1"]
    train += ["--srp-log-reflections", "--tensorboard-dir", str(out / "tensorboard")]
    train += ["--save", str(out / "checkpoints")]
    return {
        "preparing the corpus with reflections": prepare,
        f"training {steps} steps with tensor parallelism 2": train,
    }


def run_step(step: str, command: Sequence[object], log: Path) -> None:
    """Run one step with its output in `log`.

    Raises:
        OutputError: when it fails, with the end of its log.
    """
    print(f"{step}, log in {log} ...", flush=True)
    with log.open("w") as file:
        code = subprocess.run([str(part) for part in command], stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
        raise OutputError(f"{step} failed with exit code {code}; the end of {log}:\n{tail}")


def _report(out: Path) -> None:
    """Write the report and print the summary."""
    manifest, scalars = read_manifest(manifest_path(out / "corpus")), read_scalars(out / "tensorboard")
    page = write_report(out / "report.html", manifest, _unsafe_document(), scalars)
    counts = manifest["counts"]
    verdicts = ", ".join(f"{name} {count:,}" for name, count in counts["verdicts"].items())
    print(f"documents     {counts['documents']:,}\nsegments      {counts['segments']:,}\nverdicts      {verdicts}")
    print(f"tokens        {counts['plain_tokens']:,} and {counts['tokens'] - counts['plain_tokens']:,} added")
    losses = scalars[LOSS]
    print(f"loss          {losses[0][1]:.3f} at step {losses[0][0]}, {losses[-1][1]:.3f} at step {losses[-1][0]}")
    print(f"right         {_last_shares(right_verdicts(scalars))}")
    print(f"checkpoint    {out / 'checkpoints'}\nreport        {page}")


def _last_shares(curves: dict[str, Curve]) -> str:
    """The verdicts that the model would have written right, in the last steps that read any."""
    return ", ".join(f"{verdict} {means(curve, 10)[-1][1]:.0%}" for verdict, curve in curves.items()) + " of verdicts"


def _unsafe_document() -> AnnotatedDocument:
    """A short one of the corpus with an Unsafe segment, to show."""
    guard = load_guard("small")
    for text in texts(100, harmful=_HARMFUL):
        segments = tuple(segment_text(text, _MAX_WORDS))
        labels = tuple(guard.classify([text[s.start : s.end] for s in segments]))
        if 2 < len(segments) < 20 and any(label.verdict is Verdict.UNSAFE for label in labels):
            break
    return AnnotatedDocument("demo", text, segments, labels)
