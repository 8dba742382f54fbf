"""Pretrain with Megatron's own trainer on shards with (or without) reflections.

    torchrun --nproc-per-node 2 -m megatron_srp.training.pretrain --srp-preset debug \\
        --tensor-model-parallel-size 2 --data-path out/corpus_text_document [any Megatron flag]

Without torchrun it is one process. Where no GPU is visible it runs on the CPU over gloo.
The imports are inside the functions on purpose: with `--async-save` the checkpoint writer's process
imports this module again, and a mistake in a flag is answered before Megatron is imported.
"""

import argparse
import os
import socket
import sys
from pathlib import Path

from megatron_srp.errors import SrpError, UsageError
from megatron_srp.training.process.exits import exit_together, exit_with_traceback, print_note, rank


def main() -> None:
    """Entry point: run, and turn a user's mistake into one line and exit code 2. A rank that fails ends at once."""
    try:
        train(sys.argv[1:])
    except SrpError as error:
        exit_together(error)
    except (Exception, KeyboardInterrupt):
        exit_with_traceback()


def train(argv: list[str]) -> None:
    """Check the flags, the shards and the devices, then train."""
    from megatron_srp.training.checks import devices
    from megatron_srp.training.cpu import backend as cpu_backend
    from megatron_srp.training.flags import arguments
    from megatron_srp.training.flags import sft_flags as sft
    from megatron_srp.training.process import extensions

    args = arguments.look_at(argv)
    gpus = int(os.environ.get("WORLD_SIZE", "1")) if args.srp_dry_run is None else args.srp_dry_run
    if gpus < 1:
        raise UsageError(f"--srp-dry-run {gpus}: give the number of GPUs of the run, 1 or more")
    argv = arguments.expand_preset(sft.add_sft_flags(argv, gpus), gpus)
    args = arguments.look_at(argv)
    if not args.help:
        argv = _check(args, gpus) + argv
    if args.srp_dry_run is not None:
        from megatron_srp.training.flags.dry_run import dry_run

        _set_environment()
        _ignore_missing_cuda_extensions()
        return dry_run(argv, gpus)
    if not args.help:
        argv = _prepare_to_resume(args) + argv
    devices.check_port()
    _set_environment()
    if not args.help:
        found = devices.find_devices()
        devices.check_devices(args, found, extensions.hide_broken_engine() if found.count else None)
    on_cpu = cpu_backend.install()
    if on_cpu:
        print_note("no GPU is visible: training on the CPU over gloo, which is for demos and tests")
        argv = arguments.add_defaults(cpu_backend.default_flags(), argv)
        _ignore_missing_cuda_extensions()
    else:
        argv = _fuse_gradients(argv)

    from megatron_srp.training import megatron_api

    return megatron_api.run(argv, on_cpu)


def _check(args: argparse.Namespace, gpus: int) -> list[str]:
    """All checks that need neither torch nor Megatron; returns flags to add."""
    from megatron_srp.training.checks import data as shards
    from megatron_srp.training.flags import arguments
    from megatron_srp.training.flags.precision import check_precision
    from megatron_srp.training.layout.layouts import check_layout
    from megatron_srp.training.layout.model_from_flags import layout_of, model_of

    notes = arguments.check_flags(args)
    model, layout = model_of(args), layout_of(args, gpus)
    if model is not None:
        check_layout(model, layout)
    notes += check_precision(args, model, layout)
    flags, more = shards.check_shards(args)
    for note in notes + more:
        print_note(note)
    return flags


def _fuse_gradients(argv: list[str]) -> list[str]:
    """`argv` for this GPU; Megatron's output layer asks for fused gradients by default, and fails without."""
    from megatron_srp.training.checks.devices import UNFUSED_GRADIENTS

    if UNFUSED_GRADIENTS in argv:
        return argv

    from megatron_srp.training.process import fused_gradients

    failure = fused_gradients.install(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if failure is None:
        return argv
    print_note(f"gradients are accumulated in a step of their own, which is somewhat slower ({failure})")
    return [UNFUSED_GRADIENTS, *argv]


def _prepare_to_resume(args: argparse.Namespace) -> list[str]:
    """Mend the folder of `--load`; returns flags to add where its latest checkpoint is not the one to load."""
    from megatron_srp.training.checks.checkpoint_files import whole_instead_of_latest
    from megatron_srp.training.process.repair_tracker import repair_tracker

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


def _set_environment() -> None:
    """What torchrun and Megatron expect to find; the user's own settings win."""
    # Overlapping tensor-parallel communication relies on kernels being launched in order.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    # Data loader workers are forked after the tokenizer's thread pool has started.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "WORLD_SIZE" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def _ignore_missing_cuda_extensions() -> None:
    # On a CPU, a dozen warnings that Apex, Transformer Engine and CUDA are missing say nothing new.
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"megatron\.")
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
