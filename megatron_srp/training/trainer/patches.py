"""What this project replaces in Megatron's trainer for the run of this process."""

import functools
import inspect
import logging
from typing import Any

from megatron.training import get_args

from megatron_srp.training.checks.checkpoint_files import keep_newest
from megatron_srp.training.datasets.dali import through_dali
from megatron_srp.training.layout.flops import add_mfu, bf16_peak
from megatron_srp.training.process import errors as trainer_errors
from megatron_srp.training.process.dataset_helpers import find_helpers
from megatron_srp.training.process.exits import print_note
from megatron_srp.training.trainer.step_line import shorten_step
from megatron_srp.training.trainer.whole_checkpoint import load_whole

# They warn at every start about things the user need not act on: the mode it always runs in, a deprecated writer that
# Megatron itself chooses.
NOISY_MODULES = {
    "megatron.core.rerun_state_machine": logging.ERROR,
    "megatron.core.dist_checkpointing.strategies.torch": logging.ERROR,
}


def skip_compilation() -> None:
    """Keep Megatron from running `make` for its data helpers where they are compiled, with or without a GPU.

    The wheel has no Makefile, so rank 0 would exit at start-up.
    """
    import megatron.core.datasets.utils as utils

    if find_helpers():
        utils.compile_helpers = lambda: None


def speak_briefly() -> None:
    """`--srp-log brief`: omit Megatron's arguments, time stamps, memory reports and notes; shorten a step's line."""
    from megatron.training import arguments as megatron_arguments
    from megatron.training import training

    def nothing(*args: object, **kwargs: object) -> None:
        pass

    def print_reason(text: str, *args: object) -> None:
        """Why a run stops early is among Megatron's time stamps."""
        if text.startswith("exiting program"):
            print_note(f"{text.rstrip('.')}; the same command resumes it")

    print_plain = training.print_rank_last
    training.print_rank_last = lambda line: print_plain(shorten_step(line, get_args().seq_length))
    megatron_arguments._print_args = nothing
    training.print_datetime = print_reason
    for name in ("report_memory", "report_theoretical_memory"):
        setattr(training, name, nothing)
    logging.getLogger("megatron").setLevel(logging.WARNING)
    for module, level in NOISY_MODULES.items():
        logging.getLogger(module).setLevel(level)


def log_first_step_once() -> None:
    """Keep the first step of a start out of the second line of the log, where it has filled an interval by itself.

    Megatron prints that step at once, whatever the interval, and counts it in the next line too. With --log-interval 1
    the second line would be the mean of two steps.
    """
    from megatron.training import training

    plain: Any = training.training_log
    parameters = inspect.signature(plain)

    @functools.wraps(plain)
    def log_step(*args: Any, **kwargs: Any) -> Any:
        call = parameters.bind(*args, **kwargs)
        if call.arguments["iteration"] % get_args().log_interval == 0:
            call.arguments["is_first_iteration"] = False
        return plain(*call.args, **call.kwargs)

    training.training_log = log_step


def log_mfu(device_name: str) -> None:
    """Add the MFU to the throughput in Megatron's line of a step, if the device's peak is known."""
    from megatron.training import training

    peak, print_plain = bf16_peak(device_name), training.print_rank_last
    if peak is not None:
        training.print_rank_last = lambda line: print_plain(add_mfu(line, peak))


def use_dali(device_id: int | None) -> None:
    """`--srp-dataloader dali`: every loader that Megatron builds from now on goes through DALI."""
    from megatron.training import training

    training.build_pretraining_data_loader = through_dali(training.build_pretraining_data_loader, device_id)


def explain_load_errors() -> None:
    """Report a checkpoint that cannot be loaded in one line, and load none with damaged tensors."""
    from megatron.training import training

    load = trainer_errors.explain_load_errors(training.load_checkpoint, lambda: get_args().load)
    training.load_checkpoint = load_whole(load)


def keep_checkpoints(count: int) -> None:
    """Have Megatron keep the `count` newest checkpoints; by default it keeps one, and the milestones."""
    from megatron.training import checkpointing

    delete = checkpointing._async_delete_checkpoint_impl
    interval = lambda: get_args().save_retain_interval  # noqa: E731
    checkpointing._async_delete_checkpoint_impl = keep_newest(delete, count, interval)
