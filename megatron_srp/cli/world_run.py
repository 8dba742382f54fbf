"""The command line of tools/run_world.py. Heavy imports wait until flags are parsed; torch is for its steps alone."""

import argparse
import json
import os
import shlex
import sys
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from megatron_srp.errors import CommandParser, UsageError, did_you_mean
from megatron_srp.medsafetyworld.experiment import variants
from megatron_srp.medsafetyworld.experiment.presets import PRESETS, find_run_preset

DESCRIPTION = """
The paper's controlled experiment, from nothing to a report: make a MedSafetyWorld for each setting, pretrain and
post-train on it with Megatron's own trainer, fine-tune, attack, and measure. Give the same command again after a
stop of any kind, and it goes on; change an option, and what depends on it is done anew.

Writes OUT/report.html and report.json, the models OUT/seedN/SETTING/STAGE/model, and OUT/steps/*.log.
"""
EPILOG = """
settings
  baseline, filtering, filtering-plus, rewrite    as tools/make_world.py has them, post-trained without reflections
  srp                                             reflections in pretraining and post-training
  post-only                                       filtering's pretrained model, reflections in post-training alone

stages
  pretrained          what the model knows before it has learned to answer (always measured)
  sft                 answers, and refuses the harmful questions (always there)
  sft-recovery        the same with examples that give up a harmful answer (settings with reflections)
  benign-original     sft, fine-tuned on harmless data; -mix-sft: some post-training data among it;
                      -reflection: the data with reflections (settings with reflections)
  adversarial         sft, fine-tuned on answered harmful questions
"""


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="run_world.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder to write, or to go on in")
    add("--preset", default="mini", metavar="NAME", help=f"{', '.join(PRESETS)} (default: mini)")
    add("--settings", default="filtering,srp", metavar="LIST", help="or all (default: filtering,srp)")
    add("--stages", default="all", metavar="LIST", help="of those below (default: all)")
    add("--seeds", type=int, default=3, metavar="N", help="worlds and trainings, 0 to N-1 (default: 3)")
    add("--task", default="single-hop", metavar="TASK", help="single-hop (default) or two-hop")
    add("--label-policy", default="by-outcome", metavar="NAME", help="as make_world.py has it (default: by-outcome)")
    add("--limit", type=int, metavar="N", help="questions of each class at most (default: all)")
    add("--jobs", type=int, metavar="N", help="steps at a time (default: cores on a CPU, at most 2; 1 with a GPU)")
    add("--gpus", type=int, default=1, metavar="N", help="of a training (default: 1)")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that prepare data")
    add("--dry-run", action="store_true", help="print the steps, and do nothing")
    return parser


def main(argv: list[str], tools: Path) -> int:
    """Parse `argv`, run, and print where the report is. Returns the exit code.

    Args:
        tools: the folder of tools/*.py.
    """
    args = build_parser().parse_args(argv)
    preset = find_run_preset(args.preset)
    _check_numbers(args)
    chosen, stages = variants.parse_settings(args.settings), variants.parse_stages(args.stages)

    from megatron_srp.medsafetyworld.experiment.graph import Experiment
    from megatron_srp.medsafetyworld.world.presets import load_preset
    from megatron_srp.medsafetyworld.world.settings import LabelPolicy

    load_preset(preset.world, args.task)
    if args.label_policy not in list(LabelPolicy):
        raise UsageError(f"--label-policy {args.label_policy!r}: {did_you_mean(args.label_policy, [*LabelPolicy])}")
    _check_muon(preset.optimizer)
    experiment = Experiment(
        preset, tuple(chosen), stages, tuple(range(args.seeds)), args.task, args.label_policy, args.limit
    )
    return _run(experiment, args, tools, shlex.join(["tools/run_world.py", *argv]))


def _run(experiment: Any, args: argparse.Namespace, tools: Path, command: str) -> int:
    from dataclasses import replace

    steps = replace(experiment, workers=args.workers, gpus=args.gpus, command=command).steps()
    if args.dry_run:
        for step in steps:
            print(f"{step.name}\n    {' '.join((*step.command, *step.free))}")
        return 0

    from megatron_srp.medsafetyworld.experiment.progress import StepProgress
    from megatron_srp.medsafetyworld.experiment.runner import Runner
    from megatron_srp.medsafetyworld.experiment.table import format_table

    begun, progress = time.monotonic(), StepProgress(steps)
    try:
        with closing(Runner(args.out, tools, args.jobs or _default_jobs(), progress)) as runner:
            runner.run(steps)
    finally:
        progress.close()
    print(format_table(json.loads((args.out / "report.json").read_text(encoding="utf-8"))))
    print(f"report        {args.out / 'report.html'}\ndone in {time.monotonic() - begun:.0f} s")
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    for flag in ("seeds", "limit", "jobs", "gpus", "workers"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: give a number of at least 1")


def _check_muon(optimizer: tuple[str, ...]) -> None:
    if "muon" in optimizer and find_spec("emerging_optimizers") is None:
        raise UsageError(
            "this preset trains with Megatron's Muon, which needs a package that is not installed: "
            "pip install 'megatron-srp[world]'"
        )


def _default_jobs() -> int:
    """A GPU takes one training at a time. Looked for without torch, whose import takes seconds."""
    if Path("/dev/nvidiactl").exists():
        return 1
    return min(2, len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
