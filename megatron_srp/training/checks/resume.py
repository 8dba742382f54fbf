"""Prepare the folder of `--load` for a run to resume from it."""

import argparse
from pathlib import Path

from megatron_srp.training.checks.checkpoint_files import whole_instead_of_latest
from megatron_srp.training.process.exits import print_note, rank
from megatron_srp.training.process.repair_tracker import repair_tracker


def prepare_to_resume(args: argparse.Namespace) -> list[str]:
    """Repair the folder of `--load`; returns flags to add if its latest checkpoint is not the one to load."""
    if args.load is None or "://" in args.load:
        return []
    done = repair_tracker(Path(args.load)) if rank() == 0 else None
    if done:
        print_note(done)
    found = whole_instead_of_latest(Path(args.load)) if args.ckpt_step is None else None
    if found is None:
        return []
    print_note(found[1])
    return ["--ckpt-step", str(found[0])]
