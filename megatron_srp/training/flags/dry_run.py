"""`--srp-dry-run GPUS`: the whole start of a run without a GPU, up to the point where training would begin."""

from megatron_srp.training.cpu import backend as cpu_backend
from megatron_srp.training.flags import arguments
from megatron_srp.training.flags.presets import find_preset
from megatron_srp.training.layout.memory import estimate_memory
from megatron_srp.training.layout.model_from_flags import layout_of, model_of, with_vocabulary
from megatron_srp.training.process import extensions


def dry_run(argv: list[str], gpus: int) -> None:
    """Validate `argv` with Megatron's own parser for `gpus` ranks; print it, and the memory estimate.

    Raises:
        UsageError: where the run would not start.
    """
    validate(argv, gpus)
    print(arguments.format_flags(argv))
    args = arguments.look_at(argv)
    model = model_of(args)
    if model is not None and args.srp_preset is not None:
        model = with_vocabulary(model, find_preset(args.srp_preset))
        layout = layout_of(args, gpus)
        memory = estimate_memory(model, layout, args.srp_precision or "bf16")
        print(f"{gpus} GPUs: {layout}\nmemory of the fullest GPU, estimated: {memory}")
    print("dry run: every flag is valid, nothing was started")


def validate(argv: list[str], gpus: int) -> None:
    """Megatron's parser and all of its validation, silently."""
    if not cpu_backend.install():  # without a GPU: an H100's properties, for the rules that ask for them
        extensions.hide_broken_engine()

    from megatron_srp.training import megatron_api

    megatron_api.check_arguments(argv, gpus)
