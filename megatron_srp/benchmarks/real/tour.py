"""The steps of `make real`, each as the commands that a user would give. What is done is not done again.

python -m megatron_srp.benchmarks.real.tour [--gguf FILE] [--out out/real] [--prose FOLDER] [--sets FOLDER] [--limit N]
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_srp.benchmarks.real.data import find_gguf, real_folder
from megatron_srp.benchmarks.real.inputs import write_inputs
from megatron_srp.benchmarks.real.summary import write_summary
from megatron_srp.errors import CommandParser, UsageError, run_command
from megatron_srp.smoke import run_step
from megatron_srp.training.checks.devices import LOCAL_LAYERS

Argv = Sequence[object]
PRETRAIN_STEPS, SFT_STEPS = 20, 20
_BATCH = ("--seq-length", 256, "--micro-batch-size", 2, "--global-batch-size", 2)
# A warmup from zero: the first update changes nothing, and two losses are those of the model as it came.
_SCHEDULE = ("--lr-warmup-iters", 2, "--lr-decay-style", "linear", "--min-lr", 0)
_SAVING = ("--eval-iters", 0, "--eval-interval", 1000, "--save-interval", 1000)
_LOGS = (*_SAVING, "--log-interval", 1, "--srp-log", "brief", "--no-one-logger")


@dataclass(frozen=True)
class Tour:
    """Where the model comes from, what is read, where all is written, and how many cases a column has."""

    gguf: Path
    out: Path
    prose: Path
    sets: Path
    limit: int


def steps(tour: Tour) -> dict[str, Callable[[Tour], list[Argv]]]:
    return {
        "start": _start,
        "prose": _prose,
        "pretrain": _pretrain,
        "compare": _compare,
        "chats": _chats,
        "sft": _post_train,
        "export": _export,
        "answers": _answer,
        "evaluate": _evaluate,
    }


def run(tour: Tour) -> None:
    """All steps, then the summary.

    Raises:
        OutputError: when a step fails, with the end of its log; the same command resumes there.
    """
    tour.out.mkdir(parents=True, exist_ok=True)
    write_inputs(tour.out / "inputs")
    for name, commands in steps(tour).items():
        done = tour.out / f"{name}.done"
        if done.exists():
            continue
        begun = time.monotonic()
        for i, command in enumerate(commands(tour)):
            run_step(name, command, tour.out / f"{name}{i or ''}.log")
        done.write_text(f"{time.monotonic() - begun:.0f}")
    print(write_summary(tour.out).read_text())


def _srp(command: str, *arguments: object) -> Argv:
    return (sys.executable, "-m", "megatron_srp", command, *arguments)


def _module(name: str, *arguments: object) -> Argv:
    return (sys.executable, "-m", f"megatron_srp.benchmarks.{name}", *arguments)


def _start(tour: Tour) -> list[Argv]:
    return [_module("gpu.real_model", "make", tour.gguf, tour.out)]


def _prose(tour: Tour) -> list[Argv]:
    tokenizer = ("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", tour.out / "hf")
    made = ("--guard", "heuristic", "--append-eod", "--output-prefix", tour.out / "prose", "--overwrite")
    return [_srp("preprocess", "--input", tour.prose, *tokenizer, *made)]


def _pretrain(tour: Tour) -> list[Argv]:
    out = tour.out
    data = ("--data-path", out / "prose_text_document", "--split", "1,0,0", "--train-iters", PRETRAIN_STEPS)
    run = ("--lr", 5e-5, *_SCHEDULE, "--save", out / "pretrained", "--no-save-optim")
    return [_module("real.record", out / "first.pt", *_model(tour, "start"), *_BATCH, *data, *run, *_LOGS)]


def _compare(tour: Tour) -> list[Argv]:
    out = tour.out
    return [_module("real.compare", out / "first.pt", out / "hf", out / "first.json")]


def _chats(tour: Tour) -> list[Argv]:
    data, out = tour.out / "inputs", tour.out
    safety = ("--harmful", data / "harmful.jsonl", "--num-recoveries", 0, "--keep-share", 1)
    reflected = ("--guard", "heuristic", "--out", out / "chats.jsonl", "--overwrite")
    shard = ("--tokenizer-model", out / "hf", "--seq-length", 256, "--output-prefix", out / "chats", "--overwrite")
    return [
        _srp("sft", "--input", data / "chats.jsonl", *safety, *reflected),
        _srp("sft", "--input", out / "chats.jsonl", "--format", "srp", "--mode", "reflection", *shard),
    ]


def _post_train(tour: Tour) -> list[Argv]:
    out = tour.out
    data = ("--srp-sft", out / "chats_sft", "--train-iters", SFT_STEPS)
    run = ("--lr", 3e-4, *_SCHEDULE, "--save", out / "sft", "--no-save-optim", *_LOGS)
    return [_srp("train", *_model(tour, "pretrained"), *_BATCH, *data, *run)]


def _export(tour: Tour) -> list[Argv]:
    out = tour.out
    return [_srp("export", out / "sft", out / "model", "--tokenizer-model", out / "hf", "--overwrite")]


def _answer(tour: Tour) -> list[Argv]:
    asked = ("--input", tour.out / "inputs" / "questions.jsonl", "--max-new-tokens", 48)
    guarded = ("--on-unsafe", "refuse", "--reflect-prompt")
    return [
        _srp("generate", "--model", tour.out / "hf", *asked, "--on-unsafe", "off", "--out", tour.out / "before.jsonl"),
        _srp("generate", "--model", tour.out / "model", *asked, *guarded, "--out", tour.out / "after.jsonl"),
    ]


def _evaluate(tour: Tour) -> list[Argv]:
    data = ("--data", tour.sets, f"sft={tour.out / 'chats.jsonl'}", "--guard", "heuristic")
    limits = ("--suite", "quick", "--limit", tour.limit, "--max-new-tokens", 32)
    return [_srp("evaluate", tour.out / "model", *limits, *data, "--out", tour.out / "evaluation")]


def _model(tour: Tour, start: str) -> list[object]:
    """The trainer's flags for the model, in fp32."""
    from megatron_srp.checkpoints.hf_weights import HFWeights
    from megatron_srp.checkpoints.import_hf import model_flags

    tokenizer = ("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", tour.out / "hf")
    flags = [*model_flags(HFWeights(tour.out / "hf").shape, with_preset=False), *LOCAL_LAYERS, *tokenizer]
    return [*flags, "--pretrained-checkpoint", tour.out / start]


def parse(argv: Sequence[str]) -> Tour:
    """The command line; raises UsageError."""
    parser = CommandParser(prog="megatron_srp.benchmarks.real.tour")
    add = parser.add_argument
    add("--gguf", type=Path, metavar="FILE", help="SmolLM2-135M-Instruct (default: what tests/real/fetch.sh brings)")
    add("--out", type=Path, default=Path("out/real"), metavar="FOLDER", help="to write to, and to resume from")
    add("--prose", type=Path, metavar="FOLDER", help="JSONL or Parquet files to train on (default: made-up texts)")
    add("--sets", type=Path, metavar="FOLDER", help="public data sets to ask (default: made-up requests)")
    add("--limit", type=int, default=2, metavar="N", help="cases in a column of the evaluation (default: 2)")
    return _tour(parser.parse_args(argv))


def _tour(args: argparse.Namespace) -> Tour:
    file = args.gguf or find_gguf(real_folder())
    if file is None or not file.is_file():
        raise UsageError(f"no GGUF file of SmolLM2 at {file or real_folder()}; tests/real/fetch.sh brings one")
    out = args.out.resolve()
    prose, sets = args.prose or out / "inputs" / "prose", args.sets or out / "inputs" / "sets"
    return Tour(file.resolve(), out, prose, sets, args.limit)


if __name__ == "__main__":
    run_command(lambda: run(parse(sys.argv[1:])))
