"""Everything that depends on Megatron's trainer and its version; no other module imports megatron.training.

    run(plan, on_cpu)       # flags -> megatron.training.pretrain()

Written for megatron-core 0.19. `tests/integration/test_megatron_api.py` checks every name, signature
and argument used here, and says which one changed.

Shapes: b micro-batch size in sequences, s sequence length in tokens.
"""

import argparse
import contextlib
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any

import megatron.core
import torch
from megatron.core import mpu
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.enums import ModelType
from megatron.core.extensions.transformer_engine import HAVE_TE
from megatron.core.num_microbatches_calculator import get_num_microbatches
from megatron.core.rerun_state_machine import get_rerun_state_machine
from megatron.core.utils import get_attr_wrapped_model, get_batch_on_this_tp_rank
from megatron.training import get_args, get_timers, get_tokenizer, pretrain
from megatron.training.argument_utils import gpt_config_from_args, pretrain_cfg_container_from_args
from megatron.training.arguments import parse_and_validate_args, parse_args, validate_args
from megatron.training.global_vars import get_tensorboard_writer
from megatron.training.training import update_seqlen_stats_from_cu_seqlens
from megatron.training.utils import get_blend_and_blend_per_split, is_first_or_last_pipeline_stage

from megatron_srp.errors import SrpError, UsageError, explain_parse_error
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.checks import data as shards
from megatron_srp.training.checks.checkpoint import check_checkpoint
from megatron_srp.training.checks.checkpoint_files import keep_newest
from megatron_srp.training.checks.lineage import record_data
from megatron_srp.training.cpu import backend as cpu_backend
from megatron_srp.training.cpu import checkpoints as cpu_checkpoints
from megatron_srp.training.datasets.dali import through_dali
from megatron_srp.training.datasets.providers import DATASET_OPTIONS, DatasetKind, check_splits, choose_dataset
from megatron_srp.training.datasets.run_tokenizer import run_tokenizer
from megatron_srp.training.datasets.sft_batch import conversation_bounds, get_packed_batch, is_flat, prepare_attention
from megatron_srp.training.datasets.sft_dataset import build_sft_datasets
from megatron_srp.training.flags import arguments
from megatron_srp.training.layout.flops import add_mfu, bf16_peak
from megatron_srp.training.plan import RunPlan
from megatron_srp.training.process import errors as trainer_errors
from megatron_srp.training.process.checkpoint_worker import watch_checkpoint_worker
from megatron_srp.training.process.exits import print_note
from megatron_srp.training.process.write_errors import keep_reasons_of_failed_writes

SUPPORTED_VERSION = "0.19."
# They warn at every start about things the user need not act on: the mode it always runs in, GPTModel
# getting no new features, a deprecated writer that Megatron itself chooses.
NOISY_MODULES = {
    "megatron.core.rerun_state_machine": logging.ERROR,
    "megatron.core.models.gpt.gpt_model": logging.ERROR,
    "megatron.core.dist_checkpointing.strategies.torch": logging.ERROR,
}
BATCH_KEYS = ("tokens", "labels", "loss_mask", "attention_mask", "position_ids")


def dataset_config(kind: DatasetKind) -> Any:
    """The dataset's configuration, filled from the parsed arguments."""
    args = get_args()
    blend, blend_per_split = get_blend_and_blend_per_split(args)
    options = {field: getattr(args, name) for field, name in DATASET_OPTIONS.items()}
    tokenizer = run_tokenizer(get_tokenizer(), args.srp_data)
    options |= {"blend": blend, "blend_per_split": blend_per_split, "tokenizer": tokenizer}
    return kind.config(**options, **kind.extra_options(args))


def build_datasets(num_samples: list[int], vp_stage: int | None = None) -> list[Any]:
    """Megatron's dataset provider: train, validation and test dataset with at least these numbers of samples."""

    def reads_data() -> bool:
        return mpu.get_tensor_model_parallel_rank() == 0 and is_first_or_last_pipeline_stage(vp_stage)

    args = get_args()
    if args.srp_sft:  # every pipeline stage needs to know where conversations begin
        return build_sft_datasets(args, num_samples) if mpu.get_tensor_model_parallel_rank() == 0 else [None] * 3
    kind = choose_dataset(args)
    config = dataset_config(kind)
    check_splits(config)
    return BlendedMegatronDatasetBuilder(kind.dataset, num_samples, reads_data, config).build()


build_datasets.is_distributed = True  # type: ignore[attr-defined]  # called on every rank


def get_batch(data_iterator: Iterator[dict[str, torch.Tensor]], vp_stage: int | None) -> list[Any]:
    """The micro-batch on this rank: `BATCH_KEYS`, each [b, s] ([b, 1, s, s] for the attention mask).

    The first tensor-parallel rank reads it and broadcasts it; inner pipeline stages need none.
    """
    if not is_first_or_last_pipeline_stage(vp_stage):
        return [None] * len(BATCH_KEYS)
    args = get_args()
    batch: dict[str, torch.Tensor | None] = {}
    if mpu.get_tensor_model_parallel_rank() == 0:
        sample = next(data_iterator)
        batch = {key: sample[key].cuda(non_blocking=True) if key in sample else None for key in BATCH_KEYS}
    batch = get_batch_on_this_tp_rank(
        batch,
        has_cu_seqlens=False,
        is_hybrid_cp=False,
        create_attention_mask_in_dataloader=args.create_attention_mask_in_dataloader,
        broadcast_src_rank=mpu.get_tensor_model_parallel_src_rank(),
        broadcast_group=mpu.get_tensor_model_parallel_group(),
        cp_size=1,
        tp_rank=mpu.get_tensor_model_parallel_rank(),
        micro_batch_size=args.micro_batch_size,
        seq_length=args.seq_length,
        mtp_on_this_rank=False,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        is_pipeline_first_stage=mpu.is_pipeline_first_stage(),
        is_pipeline_last_stage=mpu.is_pipeline_last_stage(),
    )
    return [batch[key] for key in BATCH_KEYS]


def loss_function(
    loss_mask: torch.Tensor, losses: torch.Tensor, count: bool = False
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Summed cross-entropy in nats and the number of tokens it is summed over.

    Args:
        loss_mask: [b, s], 0 where a token is not learned.
        losses: [b, s], per token.
        count: also log the number of learned tokens per step.
    """
    mask = loss_mask.view(-1).float()
    loss = torch.sum(losses.view(-1).float() * mask)
    num_tokens = mask.sum().detach().to(torch.int)
    if get_args().check_for_nan_in_loss_and_grad:
        for wrong in (torch.isnan, torch.isinf):
            get_rerun_state_machine().validate_result(
                result=loss,
                rejection_func=wrong,
                message=f"loss: {wrong.__name__}",
                tolerance=0.0,
                fatal=True,
            )
    report = torch.stack([loss.detach(), num_tokens.to(loss.dtype)])
    reports = {"lm loss": report}
    if count:  # Megatron sums numerators and denominators over all micro-batches of a step
        share = 1 / (get_num_microbatches() * mpu.get_data_parallel_world_size())
        reports["learned tokens"] = torch.stack([report[1], torch.full_like(report[1], share)])
    return loss, num_tokens, reports


def forward_step(data_iterator: Iterator[dict[str, torch.Tensor]], model: Any) -> tuple[torch.Tensor, Any]:
    """Megatron's forward step: the model's output and the function that computes the loss from it."""
    timers = get_timers()
    timers("batch-generator", log_level=2).start()
    vp_stage = get_attr_wrapped_model(model, "vp_stage")
    if get_args().srp_sft:
        batch = get_packed_batch(data_iterator, is_flat(get_args()))
        timers("batch-generator").stop()
        if model.training and not vp_stage:  # what attention actually computes, for the throughput
            update_seqlen_stats_from_cu_seqlens(conversation_bounds(batch["position_ids"]))
        return model(**batch), partial(loss_function, batch["loss_mask"], count=model.training)
    tokens, labels, loss_mask, attention_mask, position_ids = get_batch(data_iterator, vp_stage)
    timers("batch-generator").stop()
    output = model(tokens, position_ids, attention_mask, labels=labels, loss_mask=loss_mask)
    return output, partial(loss_function, loss_mask)


def prepare_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add our flags to Megatron's parser, and make its errors and its help readable."""
    arguments.add_srp_arguments(parser)
    parser.usage = "[torchrun ...] -m megatron_srp train [--srp-preset NAME] [any Megatron flag]"
    parser._action_groups.insert(0, parser._action_groups.pop())  # ours first: Megatron's fill 2,000 lines
    if os.environ.get("RANK", "0") != "0":
        parser.print_help = lambda file=None: None  # type: ignore[method-assign]
    for action in parser._actions:  # three of 0.19's help texts have a bare "%", which breaks --help
        action.help = re.sub(r"%%|%\(\w+\)\w|%", lambda m: "%%" if m[0] == "%" else m[0], action.help or "")

    def error(message: str) -> None:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise explain_parse_error(message, flags)

    parser.error = error  # type: ignore[method-assign,assignment]
    return parser


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse and validate; Megatron's own errors become one line too."""
    sys.argv[1:] = argv  # the only list that Megatron reads
    with _complaints_in_one_line():
        return parse_and_validate_args(extra_args_provider=prepare_parser)


def check_arguments(argv: list[str], gpus: int) -> argparse.Namespace:
    """Parse and validate as a run on `gpus` ranks would, without starting it. No GPU is needed."""
    sys.argv[1:] = argv
    os.environ.update(WORLD_SIZE=str(gpus), RANK="0", LOCAL_RANK="0")
    with _complaints_in_one_line(), contextlib.redirect_stdout(io.StringIO()):
        args = parse_args(prepare_parser)
        validate_args(args)
        if not HAVE_TE:  # the target machine has it
            args.apply_rope_fusion = False
        if args.srp_sft:
            prepare_attention(args)
        if args.vocab_size is None and args.tokenizer_type in ("HuggingFaceTokenizer", "SentencePieceTokenizer"):
            # Megatron gets it from its tokenizer later during start-up.
            args.vocab_size = load_tokenizer(args.tokenizer_type, args.tokenizer_model).vocab_size
        # The model's own configuration has rules too.
        pretrain_cfg_container_from_args(args, gpt_config_from_args(args))
    return args


@contextlib.contextmanager
def _complaints_in_one_line() -> Iterator[None]:
    try:
        yield
    except SrpError:
        raise
    except (AssertionError, ValueError, RuntimeError, OSError) as error:
        # Most of its checks are assertions, many without a message: then the source line explains it.
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = " ".join(str(error).split()) or where.line
        raise UsageError(f"Megatron refuses these flags: {message}") from error


def skip_compilation() -> None:
    """Keep Megatron from running `make` for its data helpers, with or without a GPU.

    The wheel ships them compiled but has no Makefile, so rank 0 would exit at start-up.
    """
    import megatron.core.datasets.utils as utils

    try:
        import megatron.core.datasets.helpers_cpp  # noqa: F401
    except ImportError:  # a source tree: let it compile
        return
    utils.compile_helpers = lambda: None


def speak_briefly() -> None:
    """`--srp-log brief`: omit Megatron's arguments, time stamps, memory reports and notes."""
    from megatron.training import arguments as megatron_arguments
    from megatron.training import training

    def nothing(*args: object, **kwargs: object) -> None:
        pass

    megatron_arguments._print_args = nothing
    for name in ("print_datetime", "report_memory", "report_theoretical_memory"):
        setattr(training, name, nothing)
    logging.getLogger("megatron").setLevel(logging.WARNING)
    for module, level in NOISY_MODULES.items():
        logging.getLogger(module).setLevel(level)


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
    """Report a checkpoint that cannot be loaded in one line."""
    from megatron.training import training

    training.load_checkpoint = trainer_errors.explain_load_errors(training.load_checkpoint, lambda: get_args().load)


def keep_checkpoints(count: int) -> None:
    """Have Megatron keep the `count` newest checkpoints; by default it keeps one, and the milestones."""
    from megatron.training import checkpointing

    delete = checkpointing._async_delete_checkpoint_impl
    interval = lambda: get_args().save_retain_interval  # noqa: E731
    checkpointing._async_delete_checkpoint_impl = keep_newest(delete, count, interval)


def run(plan: RunPlan, on_cpu: bool) -> None:
    """Train as planned, with Megatron's own trainer."""
    if not megatron.core.__version__.startswith(SUPPORTED_VERSION):
        raise UsageError(
            f"megatron-core {megatron.core.__version__} is installed; this entry point is written for "
            f"{SUPPORTED_VERSION}x. Install it with: pip install 'megatron-core[training]>=0.19.2,<0.20'"
        )
    skip_compilation()
    explain_load_errors()
    if on_cpu:
        cpu_backend.patch_megatron()
    else:
        log_mfu(torch.cuda.get_device_name())
    watch_checkpoint_worker()
    keep_reasons_of_failed_writes()
    if plan.args.srp_log == "brief":
        speak_briefly()
    args = parse_arguments(list(plan.flags))
    if args.use_checkpoint_args:  # the checkpoint may have brought other flags and another tokenizer
        arguments.check_flags(args)
        shards.check_tokenizer(args)
    keep_checkpoints(args.srp_keep_checkpoints)
    tokenizer = get_tokenizer()
    record_data(args)
    for note in check_checkpoint(args, tokenizer.vocab_size):
        print_note(note)
    if args.srp_sft:
        prepare_attention(args)
    if args.srp_dataloader == "dali":
        use_dali(None if on_cpu else args.local_rank)  # Megatron has not chosen the GPU yet
    eod = run_tokenizer(tokenizer, args.srp_data).eod
    arguments.check_pad_token(getattr(tokenizer, "pad", None), eod, args.allow_ambiguous_pad_tokens)
    if on_cpu and not args.async_save:
        cpu_checkpoints.write_checkpoints_in_process()
    model_config = gpt_config_from_args(args)
    model_config.rope_scaling_factor = args.rope_scaling_factor  # 0.19 does not pass it on: always Llama 3.1's 8
    config = pretrain_cfg_container_from_args(args, model_config)
    with trainer_errors.explained(args.save):
        pretrain(config, build_datasets, ModelType.encoder_or_decoder, forward_step)
    writer = get_tensorboard_writer()
    if writer:  # the last evaluation comes after Megatron's last flush, and its thread ends with the process
        writer.flush()
