"""Train as planned, with Megatron's own trainer: run(plan, on_cpu) ends in `megatron.training.pretrain`."""

import argparse

import torch
from megatron.core.enums import ModelType
from megatron.training import get_tokenizer, pretrain
from megatron.training.argument_utils import pretrain_cfg_container_from_args
from megatron.training.global_vars import get_tensorboard_writer

from megatron_srp.training.checks import data as shards
from megatron_srp.training.checks.checkpoint import check_checkpoint
from megatron_srp.training.checks.lineage import record_data
from megatron_srp.training.cpu import backend as cpu_backend
from megatron_srp.training.cpu import checkpoints as cpu_checkpoints
from megatron_srp.training.datasets.run_tokenizer import run_tokenizer
from megatron_srp.training.datasets.sft_batch import prepare_attention
from megatron_srp.training.flags.refused import check_flags, check_pad_token
from megatron_srp.training.host.reflection_patterns import patterns_of
from megatron_srp.training.host.register import register
from megatron_srp.training.plan import RunPlan
from megatron_srp.training.process import errors as trainer_errors
from megatron_srp.training.process.checkpoint_worker import watch_checkpoint_worker
from megatron_srp.training.process.exits import print_note
from megatron_srp.training.process.progress import count_micro_batches
from megatron_srp.training.process.write_errors import keep_reasons_of_failed_writes
from megatron_srp.training.trainer import patches
from megatron_srp.training.trainer.batch import check_attention
from megatron_srp.training.trainer.bridge_config import describe_checkpoints_to_bridge
from megatron_srp.training.trainer.dataset_provider import build_datasets
from megatron_srp.training.trainer.forward import forward_step
from megatron_srp.training.trainer.megatron_parser import model_config, parse_arguments
from megatron_srp.training.trainer.record_readings import record_readings
from megatron_srp.training.trainer.reflection_log import log_reflections


def run(plan: RunPlan, on_cpu: bool) -> None:
    """Train as planned."""
    _patch(plan.args, on_cpu)
    args = parse_arguments(list(plan.flags))
    _check(args)
    _prepare(args, on_cpu)
    config = pretrain_cfg_container_from_args(args, model_config(args))
    with trainer_errors.explained(args.save):
        step = count_micro_batches(forward_step, args.distributed_timeout_minutes)
        pretrain(config, build_datasets, ModelType.encoder_or_decoder, step)
    writer = get_tensorboard_writer()
    if writer:  # the last evaluation comes after Megatron's last flush, and its thread ends with the process
        writer.flush()


def _patch(args: argparse.Namespace, on_cpu: bool) -> None:
    """The patches that come before Megatron parses its flags."""
    patches.skip_compilation()
    patches.explain_load_errors()
    patches.log_first_step_once()
    if args.srp_log == "brief":  # before the MFU is added, so that the short line gets it
        patches.speak_briefly()
    if on_cpu:
        cpu_backend.patch_megatron()
    else:
        patches.log_mfu(torch.cuda.get_device_name())
    watch_checkpoint_worker()
    keep_reasons_of_failed_writes()
    register()
    record_readings()
    describe_checkpoints_to_bridge()


def _check(args: argparse.Namespace) -> None:
    """Check what only Megatron's parser and its tokenizer show, and record the data that the run trains on."""
    if args.use_checkpoint_args:  # the checkpoint may have brought other flags and another tokenizer
        check_flags(args)
        shards.check_tokenizer(args)
    tokenizer = get_tokenizer()
    record_data(args)
    for note in check_checkpoint(args, tokenizer.vocab_size):
        print_note(note)
    eod = run_tokenizer(tokenizer, args.srp_data).eod
    check_pad_token(getattr(tokenizer, "pad", None), eod, args.allow_ambiguous_pad_tokens)


def _prepare(args: argparse.Namespace, on_cpu: bool) -> None:
    """Set up what the parsed flags ask for."""
    patches.keep_checkpoints(args.srp_keep_checkpoints)
    if args.srp_log == "brief":
        args.log_throughput = True  # from which the MFU is computed
    if args.srp_sft:
        prepare_attention(args)
    else:
        check_attention(args)
    if args.srp_log_reflections:
        log_reflections(patterns_of(args))
    if args.srp_dataloader == "dali":
        patches.use_dali(None if on_cpu else args.local_rank)  # Megatron has not chosen the GPU yet
    if on_cpu and not args.async_save:
        cpu_checkpoints.write_checkpoints_in_process()
