#!/usr/bin/env python3
"""The whole path on this machine's CPU: a small corpus, reflections, Megatron's trainer, a report."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from megatron_srp.errors import CommandParser, OutputError, run_command

TOOLS = Path(__file__).parent


def run(step: str, command: list[str], log: Path) -> None:
    """Run one step with its output in `log`; raises OutputError with the log's end when it fails."""
    print(f"{step} ...", flush=True)
    with log.open("w") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=TOOLS.parent).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise OutputError(f"{step} failed with exit code {code}; the end of {log}:\n{tail}")


def commands(out: Path, steps: int) -> dict[str, list[str]]:
    """The two commands of a real job, as a user would give them."""
    prepare = [sys.executable, str(TOOLS / "preprocess_with_reflections.py"), "--input", str(out / "corpus.jsonl")]
    prepare += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(out / "tokenizer")]
    prepare += ["--guard", "heuristic", "--append-eod", "--output-prefix", str(out / "corpus"), "--workers", "2"]
    train = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    train += ["-m", "megatron_srp.training.pretrain", "--srp-preset", "debug", "--tensor-model-parallel-size", "2"]
    train += ["--data-path", str(out / "corpus_text_document"), "--train-iters", str(steps), "--log-interval", "1"]
    train += ["--save", str(out / "checkpoints"), "--tensorboard-dir", str(out / "tensorboard")]
    return {
        "preparing the corpus with reflections": prepare,
        f"training {steps} steps with tensor parallelism 2": train,
    }


def report(out: Path) -> None:
    """Write the report and print the summary."""
    from megatron_srp.annotation import load_guard
    from megatron_srp.data.shards.manifest import manifest_path, read_manifest
    from megatron_srp.reports.losses import read_losses
    from megatron_srp.reports.run_report import write_report
    from megatron_srp.schema import AnnotatedDocument, Verdict
    from megatron_srp.segmentation import segment_text
    from megatron_srp.toy_corpus.corpus import texts

    guard = load_guard("heuristic")
    for text in texts(100):
        segments = tuple(segment_text(text))
        labels = tuple(guard.classify([text[s.start : s.end] for s in segments]))
        if len(segments) > 2 and any(label.verdict is Verdict.UNSAFE for label in labels):
            break
    manifest, losses = read_manifest(manifest_path(out / "corpus")), read_losses(out / "tensorboard")
    page = write_report(out / "report.html", manifest, AnnotatedDocument("demo", text, segments, labels), losses)
    counts = manifest["counts"]
    verdicts = ", ".join(f"{name} {count:,}" for name, count in counts["verdicts"].items())
    print(f"documents     {counts['documents']:,}\nsegments      {counts['segments']:,}\nverdicts      {verdicts}")
    print(f"tokens        {counts['plain_tokens']:,} and {counts['tokens'] - counts['plain_tokens']:,} added")
    print(f"loss          {losses[0][1]:.3f} at step {losses[0][0]}, {losses[-1][1]:.3f} at step {losses[-1][0]}")
    print(f"checkpoint    {out / 'checkpoints'}\nreport        {page}")


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/smoke"), help="folder to write to, emptied first")
    parser.add_argument("--documents", type=int, default=1500, help="size of the corpus")
    parser.add_argument("--steps", type=int, default=100, help="training steps")
    args = parser.parse_args()
    started = time.monotonic()

    from megatron_srp.toy_corpus.chat import write_chat
    from megatron_srp.toy_corpus.corpus import train_tokenizer, write_corpus

    out = args.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_corpus(out / "corpus.jsonl", args.documents)
    write_chat(out / "chat.jsonl", args.documents // 2)  # for post-training, examples/sft.sh
    train_tokenizer(out / "tokenizer")
    for i, (step, command) in enumerate(commands(out, args.steps).items(), 1):
        run(step, command, out / f"step{i}.log")
    report(out)
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    run_command(main)
