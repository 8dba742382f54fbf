"""Pretrain with Megatron's own trainer on shards with (or without) reflections.

    srp train --nproc-per-node 2 --srp-preset debug --tensor-model-parallel-size 2 \\
        --data-path out/corpus_text_document [any Megatron flag]

This is one rank: started by `training/launch.py`, by torchrun, or alone. If no GPU is visible it runs on the CPU over
gloo.
The imports are inside the functions on purpose: with `--async-save` the checkpoint writer's process
imports the main module again, and a mistake in a flag is reported before Megatron is imported.
"""

import os
import sys
from typing import TYPE_CHECKING

from megatron_srp.errors import SrpError
from megatron_srp.missing_packages import missing_packages_explained
from megatron_srp.training.process.exits import (
    ThisRankFailed,
    exit_alone,
    exit_together,
    exit_with_traceback,
    print_note,
    rank,
)

if TYPE_CHECKING:
    from megatron_srp.training.plan import RunPlan


def main(argv: list[str] | None = None) -> None:
    """Entry point: run, and turn a user's mistake into one line and exit code 2. A rank that fails ends at once."""
    try:
        with missing_packages_explained("training"):
            train(sys.argv[1:] if argv is None else argv)
    except ThisRankFailed as error:
        exit_alone(error)
    except SrpError as error:
        exit_together(error)
    except (Exception, KeyboardInterrupt):
        exit_with_traceback()


def train(argv: list[str]) -> None:
    """Plan the run, check that it can start here, and train."""
    from megatron_srp.training.host.versions import check_host
    from megatron_srp.training.plan import plan_run
    from megatron_srp.training.process.surroundings import set_environment, warn_once

    plan = plan_run(argv, gpus=int(os.environ.get("WORLD_SIZE", "1")))
    for note in plan.notes:
        print_note(note)
    check_host()
    set_environment()
    warn_once()
    if plan.args.srp_dry_run is not None:
        from megatron_srp.training.flags.dry_run import dry_run

        return dry_run(plan)
    return _run(_check(plan), argv)


def _check(plan: "RunPlan") -> "RunPlan":
    """Check what depends on this machine and on earlier runs; print what the run will do."""
    from megatron_srp.training.checks import devices
    from megatron_srp.training.checks.outputs import check_outputs
    from megatron_srp.training.checks.resume import prepare_to_resume
    from megatron_srp.training.checks.run_summary import summarize_run
    from megatron_srp.training.process import extensions
    from megatron_srp.training.process.job_lock import lock_folder

    if plan.args.help:
        return plan
    if os.environ.get("LOCAL_RANK", "0") == "0":  # once per node
        check_outputs(plan.args)
    if rank() == 0:
        lock_folder(plan.args.save)
    plan = plan.with_defaults(prepare_to_resume(plan.args))
    if rank() == 0:
        print(summarize_run(plan.args), flush=True)
    devices.check_port()
    found = devices.find_devices()
    devices.check_devices(plan.args, found, extensions.hide_broken_engine() if found.count else None)
    return plan


def _run(plan: "RunPlan", argv: list[str]) -> None:
    """Train on the GPUs, or on the CPU if there are none; `argv` are the user's own flags."""
    from megatron_srp.training.cpu import backend as cpu_backend
    from megatron_srp.training.process.extensions import hide_unused_wandb
    from megatron_srp.training.process.surroundings import ignore_missing_cuda_extensions

    hide_unused_wandb(plan.flags)
    on_cpu = cpu_backend.install()
    if on_cpu:
        print_note("no GPU is visible: training on the CPU over gloo, which is for demos and tests")
        plan = _in_single_precision(plan, argv).with_defaults(cpu_backend.default_flags())
        ignore_missing_cuda_extensions()
    else:
        plan = _fuse_gradients(plan)

    from megatron_srp.training.trainer.run import run

    run(plan, on_cpu)


def _in_single_precision(plan: "RunPlan", argv: list[str]) -> "RunPlan":
    from megatron_srp.training.flags.defaults import single_precision

    flags = single_precision(list(plan.flags), argv)
    if len(flags) == len(plan.flags):
        return plan
    print_note("the preset's bf16 is slow on a CPU: training in fp32; pass --bf16 to have it")
    return plan.with_flags(flags)


def _fuse_gradients(plan: "RunPlan") -> "RunPlan":
    """The plan for this GPU; Megatron's output layer asks for fused gradients by default, and fails without."""
    from megatron_srp.training.checks.devices import UNFUSED_GRADIENTS
    from megatron_srp.training.process import fused_gradients

    if UNFUSED_GRADIENTS in plan.flags:
        return plan
    failure = fused_gradients.install(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if failure is None:
        return plan
    print_note(f"gradients are accumulated in a step of their own, which is somewhat slower ({failure})")
    return plan.with_defaults([UNFUSED_GRADIENTS])


if __name__ == "__main__":
    main()
