"""The steps of `--plan model`, as the commands that a user would give; the seconds are estimates for one H200."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from megatron_srp.benchmarks.gpu.cases import machine_flags
from megatron_srp.benchmarks.gpu.steps import Argv, Place, Step, keep, read_json
from megatron_srp.training.layout.layouts import largest_divisor

_HERE = "megatron_srp.benchmarks.gpu"
# Shards of pretraining and of post-training.
ARMS = {"srp": ("reflected", "reflected"), "plain": ("plain", "plain"), "post-only": ("plain", "reflected")}
FINE_TUNING = {
    "benign": "benign fine-tuning, original",
    "adversarial": "adversarial fine-tuning, original",
    "benign-reflection": "benign fine-tuning, +reflection",
    "adversarial-reflection": "adversarial fine-tuning, +reflection",
}
_TUNED = (
    *(f"{attack}-{arm}" for attack in ("benign", "adversarial") for arm in ("srp", "plain")),
    *("benign-reflection-srp", "adversarial-reflection-srp"),
)
_SCHEDULE = ("--lr-decay-style", "linear", "--lr-warmup-fraction", "0.05", "--min-lr", "0")


def steps() -> list[Step]:
    """In the order of their value: the two models and their attacks, then the third, then fine-tuning."""
    start = ("start",)
    found = [Step("start", 20, 150, _start), Step("prose", 20, 120, _prose, needs=start)]
    found.append(Step("chats", 20, 120, _chats, needs=start))
    for arm in ("srp", "plain"):
        found.append(Step(f"pretrain-{arm}", 40, 200, partial(_pretrain, arm), needs=("prose",)))
        found.append(_sft(arm, f"pretrain-{arm}"))
    found += [_attack("srp"), _attack("plain"), _sft("post-only", "pretrain-plain"), _attack("post-only")]
    return [*found, *map(_fine_tuned, _TUNED)]


def _sft(arm: str, start: str) -> Step:
    return Step(f"sft-{arm}", 40, 150, partial(_post_train, arm), needs=(start, "chats"))


def _attack(arm: str) -> Step:
    name = f"attack-{arm}"
    return Step(name, 40, 180, partial(_evaluate, arm, name), partial(_figures, name), needs=(f"sft-{arm}",))


def _fine_tuned(name: str) -> Step:
    arm = name.rpartition("-")[2]
    return Step(name, 50, 120, partial(_evaluate, arm, name), partial(_figures, name), needs=(f"sft-{arm}",))


def _python(*arguments: object) -> Argv:
    return (sys.executable, *arguments)


def _srp(command: str, *arguments: object) -> Argv:
    return _python("-m", "megatron_srp", command, *arguments)


def _start(place: Place) -> list[Argv]:
    return [_python("-m", f"{_HERE}.real_model", "make", place.options.model.resolve(), place.folder)]


def _prose(place: Place) -> list[Argv]:
    data, options = place.folder / "data", place.options
    prose = [path for path in sorted(options.corpus.resolve().iterdir()) if path.suffix != ".md"]
    flags = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", place.folder / "hf"]
    flags += ["--guard", options.guard, "--append-eod", "--workers", min(8, os.cpu_count() or 1)]
    reflect = _srp("preprocess", "--input", *prose, *flags, "--output-prefix", data / "reflected")
    strip = _srp("strip", data / "reflected", data / "plain", "--overwrite")
    # It resumes by itself where it was stopped, and refuses to repeat what it has finished.
    return [strip] if (data / "reflected.srp.json").exists() else [reflect, strip]


def _chats(place: Place) -> list[Argv]:
    data, guard = place.folder / "data", place.options.guard
    reflected, plain = data / "reflected-chats.jsonl", data / "plain-chats.jsonl"
    safety = ["--harmful", data / "harmful.jsonl", "--num-recoveries", 0]
    sft = ["--mode", "sft", "--guard", guard, "--keep-share", 1, *safety, "--out", reflected, "--overwrite"]
    shard = ["--tokenizer-model", place.folder / "hf", "--seq-length", place.options.seq_length, "--overwrite"]
    without = ["--input", plain, "--mode", "original", "--output-prefix", data / "plain-chats"]
    reflecting = ["--input", reflected, "--format", "srp", "--mode", "reflection"]
    return [
        _python("-m", f"{_HERE}.model_data", "draw", place.options.sets.resolve(), data),
        _srp("sft", "--input", data / "chats.jsonl", *sft),
        _python("-m", f"{_HERE}.model_data", "plain", reflected, plain),
        _srp("sft", *reflecting, "--output-prefix", data / "reflected-chats", *shard),
        _srp("sft", *without, *shard),
    ]


def _pretrain(arm: str, place: Place) -> list[Argv]:
    from megatron_srp.data.shards.indexed_shard import IndexedShard

    options, prefix = place.options, place.folder / "data" / f"{ARMS[arm][0]}_text_document"
    tokens = options.pretrain_epochs * len(IndexedShard(str(prefix)).tokens)
    train_iters = max(1, round(tokens / (options.seq_length * options.batch)))
    data = ["--data-path", prefix, "--split", "1,0,0", "--train-iters", train_iters, "--eval-iters", 0]
    start, out = place.folder / "start", place.folder / arm / "pretrained"
    return [_train(place, start, out, options.batch, [*data, *_SCHEDULE])]


def _post_train(arm: str, place: Place) -> list[Argv]:
    pretrained = "srp" if ARMS[arm][0] == "reflected" else "plain"
    start, out = place.folder / pretrained / "pretrained", place.folder / arm / "sft"
    shard = place.folder / "data" / f"{ARMS[arm][1]}-chats_sft"
    data = ["--srp-sft", shard, "--srp-sft-epochs", place.options.sft_epochs, *_SCHEDULE]
    export = ["--tokenizer-model", place.folder / "hf", "--overwrite"]
    return [
        # Packed, the conversations are fewer than two hundred sequences: smaller steps, or there are hardly any.
        _train(place, start, out, max(1, place.options.batch // 4), data),
        _srp("export", out, place.folder / arm / "model", *export),
    ]


def _train(place: Place, start: Path, out: Path, batch_size: int, flags: list[object]) -> Argv:
    options, machine = place.options, place.check.machine
    model = read_json(place.folder / "flags.json")[:-2]  # without the checkpoint to start from
    model += [*machine_flags(machine), *(["--bf16"] if machine.devices.count else [])]
    batch = ["--seq-length", options.seq_length, "--global-batch-size", batch_size]
    batch += ["--micro-batch-size", largest_divisor(batch_size, 16), "--lr", options.lr]
    run = ["--pretrained-checkpoint", start, "--load", out, "--save", out, "--save-interval", 1000]
    run += ["--srp-log", "brief", "--log-interval", 5, "--eval-interval", 1000, "--no-one-logger"]
    return _srp("train", *model, *batch, *flags, *run)


def _evaluate(arm: str, name: str, place: Place) -> list[Argv]:
    data, suite = place.folder / "data", _write_suite(place.folder / "suites", name)
    options = ["--data", data / "eval", f"sft={data / 'reflected-chats.jsonl'}", "--guard", place.options.guard]
    options += ["--limit", place.options.limit, "--batch-size", 48, "--out", place.folder / "reports" / name]
    return [_srp("evaluate", place.folder / arm / "model", "--suite", suite, *options)]


def _write_suite(folder: Path, name: str) -> Path:
    """The quick suite's columns for a stage: one fine-tuning attack, or all else that needs no network."""
    import yaml

    from megatron_srp.evaluation.suite import FOLDER

    attack = FINE_TUNING.get(name.rpartition("-")[0])
    quick = yaml.safe_load((FOLDER / "quick.yaml").read_text(encoding="utf-8"))
    others = ("finetune", "capability")
    columns = [c for c in quick["columns"] if (c["name"] == attack if attack else c["kind"] not in others)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(quick | {"columns": columns}, sort_keys=False), encoding="utf-8")
    return path


def _figures(name: str, place: Place) -> dict[str, Any]:
    report = place.folder / "reports" / name
    for file in ("report.json", "report.html", "cases.jsonl"):
        keep(place.check, report / file, f"{name}-{file}")
    return {"measured": {f"{column}: {measure}": value for (column, measure), value in measured(report).items()}}


def measured(report: Path) -> dict[tuple[str, str], float]:
    """The figures of an evaluation, by column and measure; empty where there is none."""
    if not (report / "report.json").is_file():
        return {}
    columns = read_json(report / "report.json")["columns"]
    rows = [(column["name"], measure) for column in columns for measure in column["measures"]]
    return {(name, each["name"]): each["value"] for name, each in rows if each["value"] is not None}
