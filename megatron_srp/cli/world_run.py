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
from megatron_srp.cli.world_flags import CAUSE_FIRST, LABEL_POLICIES, TASKS
from megatron_srp.errors import UsageError
from megatron_srp.medsafetyworld.experiment import variants
from megatron_srp.medsafetyworld.experiment.presets import PRESETS, find_run_preset

DESCRIPTION = """
The paper's controlled experiment, end to end: make a MedSafetyWorld for each setting, pretrain and
post-train on it with Megatron's own trainer, fine-tune, attack, and measure. After any interruption, rerun the same
command to resume; if an option changes, what depends on it is redone.

Writes OUT/report.html and report.json, the models OUT/seedN/SETTING/STAGE/model, and OUT/steps/*.log.
"""
EPILOG = """
settings
  baseline, filtering, filtering-plus, rewrite    as in `srp world make`, post-trained without reflections
  srp                reflections in pretraining and post-training
  post-only          the pretrained model of filtering, reflections in post-training only
  filtering-tags     verdicts as plain words in pretraining, reflections in post-training only
  srp-all-safe       srp with uninformative verdicts: all Safe
  srp-random         srp with uninformative verdicts: random
  filtering-filler   filtering with meaningless text, as long as the reflections
  filtering-steps    filtering with as many pretraining steps as srp
  filtering-sft      filtering with twice the epochs of post-training, at least as many steps as srp
  filter-document, drop-segment, mask-loss, hide, tag-before, tag-inside
                     the data policies on srp's texts and verdicts; post-trained without reflections
  srp-special        srp with special tokens for <think> and </think>, which no text can write
  srp-questions      srp with questions in pretraining too, judged there as in post-training
                     (`policies` means the data policies and srp-special; `all` leaves out these and srp-questions)

stages
  pretrained             what the model knows before it has learned to answer (always measured)
  sft                    answers, and refuses the harmful questions (always included)
  sft-recovery           the same with examples that abandon a harmful answer; -untested: with beginnings in other
                         words than any attack's; -forged: half of them after a forged Safe reflection
  adversarial            sft, fine-tuned on answered harmful questions; -safe: on answers that reflect Safe
  recovery-adversarial, forged-adversarial    the same after sft-recovery, sft-recovery-forged
  benign-original        sft, fine-tuned on harmless data; -mix-sft: with some post-training data mixed in;
                         -reflection: the data with reflections

Stages on reflections need a setting with reflections in post-training. filtering-plus has no recovery stages, since its
corpus has no unsafe outcomes. `all` leaves out stages that say nothing about a control; a stage given by name is run.
A run first trains, for all seeds, the two-by-two of what the labels say (informative or not) and their form.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp world run", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="output folder; an existing run is resumed")
    add = parser.add_argument_group("what is trained and measured").add_argument
    add("--preset", choices=list(PRESETS), default="mini", help="size of the worlds and of the models")
    add(
        "--settings",
        default="filtering,srp",
        metavar="LIST",
        help="comma-separated settings of those below, `policies` or `all`",
    )
    add("--stages", default="all", metavar="LIST", help="comma-separated stages of those below, or `all`")
    add("--seeds", type=int, default=3, metavar="N", help="number of worlds, each with its trainings")
    add("--first-seed", type=int, default=0, metavar="N", help="seed of the first world; the others count up from it")
    add("--task", choices=TASKS, default="single-hop", help="how many edges of the graph a question crosses")
    add(
        "--label-policy",
        choices=LABEL_POLICIES,
        default="by-outcome",
        help="of the setting srp, as in `srp world make`",
    )
    add("--cause-first", action="store_true", help=CAUSE_FIRST)
    add("--limit", type=int, metavar="N", help="maximum test questions per class (default: all)")
    add = parser.add_argument_group("how it is run").add_argument
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="steps run at a time (default: 1 with a GPU; on a CPU its cores, at most 2)",
    )
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
    preset = find_run_preset(args.preset, args.task)
    require_at_least(1, args, "--seeds", "--limit", "--jobs", "--gpus", "--workers")
    require_at_least(0, args, "--first-seed")
    chosen, stages = variants.parse_settings(args.settings), variants.parse_stages(args.stages)

    from megatron_srp.medsafetyworld.experiment.graph import Experiment
    from megatron_srp.medsafetyworld.world.presets import load_preset

    load_preset(preset.world, args.task)
    _check_muon(preset.optimizer)
    seeds = tuple(range(args.first_seed, args.first_seed + args.seeds))
    experiment = Experiment(
        preset, tuple(chosen), stages, seeds, args.task, args.label_policy, args.cause_first, args.limit
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
