"""`srp world run`: the MedSafetyWorld experiment. Only its steps import torch."""

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

from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.cli.world_flags import LABEL_POLICIES, TASKS
from megatron_srp.errors import UsageError
from megatron_srp.medsafetyworld.experiment import variants
from megatron_srp.medsafetyworld.experiment.presets import PRESETS, find_run_preset

DESCRIPTION = """
The paper's controlled experiment, end to end: make a MedSafetyWorld for each setting, pretrain and
post-train on it with Megatron's own trainer, fine-tune, attack, and measure. After any interruption, rerun the same
command to resume; change an option, and what depends on it is redone.

Writes OUT/report.html and report.json, the models OUT/seedN/SETTING/STAGE/model, and OUT/steps/*.log.
"""
EPILOG = """
settings
  baseline, filtering, filtering-plus, rewrite    as in `srp world make`, post-trained without reflections
  srp                                             reflections in pretraining and post-training
  post-only                                       filtering's pretrained model, reflections in post-training alone

stages
  pretrained          what the model knows before it has learned to answer (always measured)
  sft                 answers, and refuses the harmful questions (always included)
  sft-recovery        the same with examples that abandon a harmful answer (settings with reflections)
  benign-original     sft, fine-tuned on harmless data; -mix-sft: with some post-training data mixed in;
                      -reflection: the data with reflections (settings with reflections)
  adversarial         sft, fine-tuned on answered harmful questions
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp world run", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="output folder; an existing run is resumed")
    add = parser.add_argument_group("what is trained and measured").add_argument
    add("--preset", choices=list(PRESETS), default="mini", help="size of the worlds and of the models")
    add("--settings", default="filtering,srp", metavar="LIST", help="of those below, or all")
    add("--stages", default="all", metavar="LIST", help="of those below, or all")
    add("--seeds", type=int, default=3, metavar="N", help="worlds and trainings, 0 to N-1")
    add("--task", choices=TASKS, default="single-hop", help="how many edges of the graph a question crosses")
    add("--label-policy", choices=LABEL_POLICIES, default="by-outcome", help="as in `srp world make`")
    add("--limit", type=int, metavar="N", help="maximum questions of each class (default: all)")
    add = parser.add_argument_group("how it is run").add_argument
    add("--jobs", type=int, metavar="N", help="steps at a time (default: cores on a CPU, at most 2; 1 with a GPU)")
    add("--gpus", type=int, default=1, metavar="N", help="GPUs per training")
    add(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that prepare data (default: all cores)",
    )
    add("--dry-run", action="store_true", help="print the steps and do nothing")
    return parser


def main(argv: list[str]) -> int:
    """Parse `argv`, run, and print where the report is. Returns the exit code."""
    args = build_parser().parse_args(argv)
    preset = find_run_preset(args.preset)
    require_at_least(1, args, "--seeds", "--limit", "--jobs", "--gpus", "--workers")
    chosen, stages = variants.parse_settings(args.settings), variants.parse_stages(args.stages)

    from megatron_srp.medsafetyworld.experiment.graph import Experiment
    from megatron_srp.medsafetyworld.world.presets import load_preset

    load_preset(preset.world, args.task)
    _check_muon(preset.optimizer)
    experiment = Experiment(
        preset, tuple(chosen), stages, tuple(range(args.seeds)), args.task, args.label_policy, args.limit
    )
    return _run(experiment, args, shlex.join(["srp", "world", "run", *argv]))


def _run(experiment: Any, args: argparse.Namespace, command: str) -> int:
    from dataclasses import replace

    steps = replace(experiment, workers=args.workers, gpus=args.gpus, command=command).steps()
    if args.dry_run:
        for step in steps:
            print(f"{step.name}\n    {' '.join((*step.command, *step.free))}")
        next_step("the same command without --dry-run")
        return 0

    from megatron_srp.medsafetyworld.experiment.progress import StepProgress
    from megatron_srp.medsafetyworld.experiment.runner import Runner
    from megatron_srp.medsafetyworld.experiment.table import format_table

    begun, progress = time.monotonic(), StepProgress(steps)
    try:
        with closing(Runner(args.out, args.jobs or _default_jobs(), progress)) as runner:
            runner.run(steps)
    finally:
        progress.close()
    print(format_table(json.loads((args.out / "report.json").read_text(encoding="utf-8"))))
    print(f"report        {args.out / 'report.html'}\ndone in {time.monotonic() - begun:.0f} s")
    next_step(f"open {args.out / 'report.html'} in a browser")
    return 0


def _check_muon(optimizer: tuple[str, ...]) -> None:
    if "muon" in optimizer and find_spec("emerging_optimizers") is None:
        raise UsageError(
            "this preset trains with Megatron's Muon, which needs a package that is not installed: "
            "pip install 'megatron-srp[world]'"
        )


def _default_jobs() -> int:
    """A GPU runs one training at a time. Detected without torch, whose import takes seconds."""
    if Path("/dev/nvidiactl").exists():
        return 1
    return min(2, len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
