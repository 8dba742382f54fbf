"""`srp run`: this project's flags in the parser of a script that parses Megatron's, and their checks.

Four functions of `megatron.training.arguments` are wrapped before the script imports them by name. What they rely on:

    add_megatron_arguments(parser)      is called by parse_args, and returns the parser
    parse_args(...)                     reads sys.argv
    validate_args(args, defaults)       is called with the parsed arguments, before anything is built
    parse_and_validate_args(...)        calls these two, and builds the tokenizer last
"""

import argparse
import functools
import os
import sys
from types import ModuleType
from typing import Any

from megatron.training import arguments, get_tokenizer

from megatron_srp.training.checks import data as shards
from megatron_srp.training.checks.checkpoint import check_checkpoint
from megatron_srp.training.checks.lineage import record_data
from megatron_srp.training.checks.object_storage import prepare_data
from megatron_srp.training.checks.resume import prepare_to_resume
from megatron_srp.training.checks.run_summary import summarize_run
from megatron_srp.training.checks.sidecars import match_sidecars, unreflected
from megatron_srp.training.cpu.checkpoints import write_checkpoints_in_process
from megatron_srp.training.flags.command_line import look_at
from megatron_srp.training.flags.defaults import add_defaults, single_precision
from megatron_srp.training.flags.run_flags import add_run_arguments
from megatron_srp.training.host.reflection_patterns import patterns_of
from megatron_srp.training.host.settings import check_resets, reflected_manifests
from megatron_srp.training.plan import expand_flags
from megatron_srp.training.process.exits import print_note, rank
from megatron_srp.training.trainer import patches
from megatron_srp.training.trainer.reflection_log import log_reflections

_DATA_PATHS = ("data_path", "train_data_path", "valid_data_path", "test_data_path")


def hook_arguments(defaults: list[str]) -> None:
    """Wrap Megatron's four functions.

    Args:
        defaults: flags that this machine needs; those of the script's command line win.
    """
    _wrap(arguments, "add_megatron_arguments", _with_our_flags)
    _wrap(arguments, "parse_args", functools.partial(_with_defaults, defaults))
    _wrap(arguments, "validate_args", _with_checks)
    _wrap(arguments, "parse_and_validate_args", _with_checkpoint)


def _wrap(module: ModuleType, name: str, wrapper: Any) -> None:
    plain = getattr(module, name)

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(plain, *args, **kwargs)

    setattr(module, name, call)


def _with_our_flags(add: Any, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    return add_run_arguments(add(parser))


def _with_defaults(defaults: list[str], parse: Any, *args: Any, **kwargs: Any) -> argparse.Namespace:
    argv = expand_flags(sys.argv[1:], int(os.environ.get("WORLD_SIZE", "1")))
    if defaults:  # on a CPU
        argv = single_precision(argv, sys.argv[1:])
    argv = add_defaults([*defaults, *prepare_to_resume(look_at(argv))], argv)
    sys.argv[1:] = argv
    if look_at(argv).srp_log == "brief":
        patches.speak_briefly()
    parsed: argparse.Namespace = parse(*args, **kwargs)
    if defaults and not parsed.async_save:  # on a CPU
        write_checkpoints_in_process()
    return parsed


def _with_checks(validate: Any, args: argparse.Namespace, *more: Any, **kwargs: Any) -> Any:
    if reads_shards(args):
        _check_data(args)
        if rank() == 0:
            print(summarize_run(args), flush=True)
    validated = validate(args, *more, **kwargs)
    if reads_shards(args):
        record_data(args)
        if args.srp_log_reflections:
            log_reflections(patterns_of(args))
    return validated


def _with_checkpoint(parse: Any, *args: Any, **kwargs: Any) -> argparse.Namespace:
    parsed: argparse.Namespace = parse(*args, **kwargs)
    if hasattr(parsed, "srp_data"):
        for note in check_checkpoint(parsed, get_tokenizer().vocab_size):
            print_note(note)
    return parsed


def reads_shards(args: argparse.Namespace) -> bool:
    """Whether the script is to read indexed shards, as far as its flags say."""
    return not (args.mock_data or args.sft) and bool(shards.shard_prefixes(args))


def _check_data(args: argparse.Namespace) -> None:
    """Refuse what would undo the method; set the tokenizer of the data where the flags name none."""
    paths = shards.shard_prefixes(args)
    prepare_data(paths, args, args.srp_sidecar or [])
    for path in paths:
        shards.check_files(path)
    _put_in_sidecars(args)
    if reflected_manifests(shards.shard_prefixes(args)):
        check_resets(args)
    for note in unreflected(shards.shard_prefixes(args), match_sidecars([], shards.shard_prefixes(args))):
        print_note(note)
    if args.use_checkpoint_args:  # the tokenizer is known once the checkpoint has been read
        return
    for flag, value in zip(*[iter(shards.check_tokenizer(args))] * 2, strict=True):
        setattr(args, flag[2:].replace("-", "_"), value)


def _put_in_sidecars(args: argparse.Namespace) -> None:
    """Have the sidecars of `--srp-sidecar` read in place of their shards."""
    sidecars = match_sidecars(args.srp_sidecar or [], shards.shard_prefixes(args))
    for name in _DATA_PATHS:
        if getattr(args, name, None):
            setattr(args, name, [sidecars.get(item, item) for item in getattr(args, name)])
    args.srp_sidecar = None
