"""The steps of a run that are not separate commands: `python -m megatron_srp.medsafetyworld.experiment.step NAME ...`.

tokenizer WORLD_PRESET TASK SEED OUT
pretrain COUNTED EPOCHS DECAY -- FLAGS    the trainer, for as many steps as EPOCHS of the shard COUNTED are; the
                                          learning rate falls in the last DECAY of them
tune -- FLAGS                             the trainer
start MODEL SHARD OUT SEED [SIDECAR]      a checkpoint for post-training
chats WORLD TOKENIZER OUT plain|reflected LENGTH [special]    special: reflections have tokens of their own
measure CHECKPOINTS MODEL RECORD WORLD SETTING STAGE SEED [--limit N]   exports to MODEL, unless given -
report RECORD ...                         report.html, report.json and report.md in the current folder
"""

import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from megatron_srp.errors import run_command
from megatron_srp.training.layout.layouts import largest_divisor


def tokenizer(argv: list[str]) -> None:
    from megatron_srp.medsafetyworld.experiment.tokenizer import write_tokenizer
    from megatron_srp.medsafetyworld.world.plan import World
    from megatron_srp.medsafetyworld.world.presets import load_preset

    preset, task, seed, out = argv
    write_tokenizer(World.build(load_preset(preset, task), int(seed)).entities, Path(out))


def pretrain(argv: list[str]) -> NoReturn:
    from megatron_srp.data.shards.indexed_shard import IndexedShard

    (counted, epochs, decay), flags, gpus = _training(argv)
    values = dict(pairwise(flags))
    step = int(values["--seq-length"]) * int(values["--global-batch-size"])
    steps = max(2, round(float(epochs) * len(IndexedShard(counted).tokens) / step))
    falling = str(round(float(decay) * steps))
    _train([*flags, "--train-iters", str(steps), "--lr-wsd-decay-iters", falling], gpus, steps)


def tune(argv: list[str]) -> NoReturn:
    _, flags, gpus = _training(argv)
    _train(flags, gpus, 200)


def _training(argv: list[str]) -> tuple[list[str], list[str], int]:
    """The arguments before `--`, the trainer's flags after it, and the number of ranks (`--gpus N`, the last)."""
    at = argv.index("--")
    return argv[:at], argv[at + 1 : -2], int(argv[-1])


def _train(flags: list[str], gpus: int, steps: int) -> NoReturn:
    """Become the trainer. It saves five times during training, so that a killed run loses little."""
    from megatron_srp.training.checks.devices import layer_flags

    flags, gpus = spread(flags, gpus)
    ranks = ["--nproc-per-node", str(gpus)] if gpus > 1 else []
    flags = [*flags, *layer_flags(flags), "--save-interval", str(max(steps // 5, 1))]
    os.execv(sys.executable, [sys.executable, "-m", "megatron_srp", "train", *ranks, *flags])


def spread(flags: list[str], gpus: int) -> tuple[list[str], int]:
    """As many of `gpus` as divide the batch, and `flags` with a micro-batch that divides each rank's share."""
    batch, at = int(dict(pairwise(flags))["--global-batch-size"]), flags.index("--micro-batch-size") + 1
    gpus = largest_divisor(batch, gpus)
    micro_batch = largest_divisor(batch // gpus, int(flags[at]))
    return [*flags[:at], str(micro_batch), *flags[at + 1 :]], gpus


def start(argv: list[str]) -> None:
    from megatron_srp.checkpoints.import_hf import import_hf
    from megatron_srp.medsafetyworld.experiment.start import renew_unlearned

    model, shard, out, seed, *sidecar = argv
    renewed = Path(f"{out}.renewed")
    count = renew_unlearned(Path(model), shard, renewed, int(seed), *sidecar)
    print(f"embeddings reinitialised, of tokens that pretraining never learned: {count}")
    import_hf(renewed, Path(out), overwrite=True)
    shutil.rmtree(renewed)


def chats(argv: list[str]) -> None:
    from megatron_srp.medsafetyworld.experiment.conversations import write_shards

    world, model, out, form, length, *special = argv
    write_shards(Path(world), Path(model), Path(out), form == "reflected", int(length), special=bool(special))


def measure(argv: list[str]) -> None:
    from megatron_srp.files import write_json
    from megatron_srp.medsafetyworld.experiment.conversations import trained_beginnings
    from megatron_srp.medsafetyworld.measure.evaluate import evaluate_model

    checkpoints, model, record, world, setting, stage, seed, *limit = argv
    if checkpoints != "-":
        from megatron_srp.checkpoints.export_hf import export_hf

        export_hf(Path(checkpoints), Path(model), overwrite=True)
    most, trained = int(limit[1]) if limit else None, trained_beginnings(Path(world), stage)
    measured = evaluate_model(Path(model), Path(world), seed=int(seed), stage=stage, limit=most, trained=trained)
    write_json(Path(record), {"setting": setting, "seed": int(seed), "stage": stage, "measurements": measured})


def report(argv: list[str]) -> None:
    from megatron_srp.data.shards.manifest import software_versions
    from megatron_srp.machine import describe_machine
    from megatron_srp.medsafetyworld.experiment.collect import read_record
    from megatron_srp.medsafetyworld.measure.report import Context, write_report

    *records, _, command = argv
    results = [read_record(Path(), Path(record)) for record in records]
    write_report(results, Path(), Context([command], software_versions(), machine=describe_machine()))


def main() -> None:
    steps = (tokenizer, pretrain, tune, start, chats, measure, report)
    {step.__name__: step for step in steps}[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    run_command(main)
