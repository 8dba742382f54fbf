"""A run as its command line describes it: presets expanded, flags checked. Imports neither torch nor Megatron.

plan = plan_run(sys.argv[1:], gpus=8)
plan.flags, plan.layout
"""

import argparse
from dataclasses import dataclass, replace

from megatron_srp.errors import UsageError
from megatron_srp.training.checks.data import check_shards
from megatron_srp.training.checks.splits import check_parts
from megatron_srp.training.flags import sft_flags
from megatron_srp.training.flags.command_line import look_at
from megatron_srp.training.flags.defaults import EVAL_INTERVAL, add_defaults, decay_defaults, preset_defaults
from megatron_srp.training.flags.model_class import hybrid_flags
from megatron_srp.training.flags.model_preset import ModelPreset
from megatron_srp.training.flags.precision import check_precision
from megatron_srp.training.flags.refused import check_flags
from megatron_srp.training.layout.layouts import Layout, check_layout
from megatron_srp.training.layout.model_from_flags import layout_of, model_of


@dataclass(frozen=True)
class RunPlan:
    """What a run does, decided once; all later steps read it from here.

    Attributes:
        args: those of `flags` that decide whether and how the run starts (`command_line.look_at`).
        flags: the command line for Megatron, the user's own flags last.
        model: its shape; None if only Megatron knows it.
        layout: how it is spread over the GPUs.
        notes: for the user, one line each.
    """

    args: argparse.Namespace
    flags: tuple[str, ...]
    model: ModelPreset | None
    layout: Layout
    notes: tuple[str, ...] = ()

    def with_defaults(self, defaults: list[str]) -> "RunPlan":
        """The same run with the flags of `defaults` that it does not set itself."""
        return self.with_flags(add_defaults(defaults, list(self.flags)))

    def with_flags(self, flags: list[str]) -> "RunPlan":
        """The same run with these flags."""
        return replace(self, flags=tuple(flags), args=look_at(flags))


def plan_run(argv: list[str], gpus: int) -> RunPlan:
    """The plan for the command line `argv` on `gpus` ranks; `--srp-dry-run` sets its own number of ranks.

    Raises:
        UsageError, InputError: for a mistake in the flags, the layout or the shards.
    """
    planned_gpus = look_at(argv).srp_dry_run
    gpus = gpus if planned_gpus is None else planned_gpus
    if gpus < 1:
        raise UsageError(f"--srp-dry-run {gpus}: pass the number of GPUs of the run, at least 1")
    flags = expand_flags(argv, gpus)
    args = look_at(flags)
    plan = RunPlan(args, tuple(flags), model_of(args), layout_of(args, gpus))
    return plan if args.help else _check(plan)


def _check(plan: RunPlan) -> RunPlan:
    args = plan.args
    notes = check_flags(args)
    if plan.model is not None:
        check_layout(plan.model, plan.layout)
    notes += check_precision(args, plan.model, plan.layout)
    tokenizer, more = check_shards(args)
    check_parts(args)
    return replace(plan.with_defaults(tokenizer), notes=(*notes, *more))


def expand_flags(argv: list[str], gpus: int = 1) -> list[str]:
    """`argv` preceded by the flags that its presets and `--srp-sft` expand to; the user's own win.

    Args:
        gpus: number of GPUs of the whole run, for `--srp-layout auto` and the number of steps in an epoch.
    """
    asked = look_at(argv)
    sft_flags.check_together(asked)
    defaults = preset_defaults(asked, gpus)
    if asked.srp_sft and not asked.help:
        whole = look_at(add_defaults(defaults, argv))  # the preset sets the sequence length and the batch size
        argv = add_defaults(sft_flags.conversation_defaults(asked, whole, gpus), argv)
    argv = add_defaults(defaults, argv)
    argv = hybrid_flags(look_at(argv), argv)
    evaluation = [] if asked.help else EVAL_INTERVAL
    return add_defaults([*decay_defaults(look_at(argv)), *evaluation], argv)
