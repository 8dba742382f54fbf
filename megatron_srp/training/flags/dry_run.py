"""`--srp-dry-run GPUS`: the whole start of a run without a GPU, up to where training would begin."""

from megatron_srp.training.cpu import backend as cpu_backend
from megatron_srp.training.flags.command_line import format_flags
from megatron_srp.training.flags.presets import find_preset
from megatron_srp.training.layout.memory import estimate_memory
from megatron_srp.training.layout.model_from_flags import with_vocabulary
from megatron_srp.training.plan import RunPlan
from megatron_srp.training.process import extensions
from megatron_srp.training.process.surroundings import ignore_missing_cuda_extensions


def dry_run(plan: RunPlan) -> None:
    """Validate the plan with Megatron's own parser; print its flags, and the memory estimate.

    Raises:
        UsageError: if the run would not start.
    """
    validate(plan)
    print(format_flags(list(plan.flags)))
    layout, preset = plan.layout, plan.args.srp_preset
    if plan.model is not None and preset is not None:
        model = with_vocabulary(plan.model, find_preset(preset))
        memory = estimate_memory(model, layout, plan.args.srp_precision or "bf16")
        print(f"{layout.gpus} GPUs: {layout}\nmemory of the fullest GPU, estimated: {memory}")
    print("dry run: every flag is valid, nothing was started")


def validate(plan: RunPlan) -> None:
    """Megatron's parser and all of its validation, silently."""
    ignore_missing_cuda_extensions()
    extensions.hide_unused_wandb([])
    if not cpu_backend.install():  # without a GPU: an H100's properties, for the rules that check them
        extensions.hide_broken_engine()

    from megatron_srp.training.trainer.megatron_parser import check_arguments

    check_arguments(list(plan.flags), plan.layout.gpus)
