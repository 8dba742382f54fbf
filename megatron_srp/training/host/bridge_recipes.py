"""Megatron Bridge's configuration of this project's presets: their shapes, batches, optimizer and schedule.

from megatron_srp.training.host.bridge_recipes import pretrain_config

config = pretrain_config("8b", ["out/w200.srp"], gpus=256)
pretrain(config, forward_step)    # both Bridge's own
"""

from dataclasses import replace
from typing import Any

from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.training.config import (
    CheckpointConfig,
    ConfigContainer,
    DistributedDataParallelConfig,
    LoggerConfig,
    OptimizerConfig,
    SchedulerConfig,
    TokenizerConfig,
    TrainingConfig,
    ValidationConfig,
)

from megatron_srp.data.shards.data_path import is_sidecar
from megatron_srp.errors import UsageError
from megatron_srp.training.checks.data import find_manifest
from megatron_srp.training.checks.sidecars import sidecar_manifest
from megatron_srp.training.flags.model_preset import ModelPreset
from megatron_srp.training.flags.presets import find_preset
from megatron_srp.training.host.bridge import SRPDatasetProvider
from megatron_srp.training.host.bridge_model import provider_of_preset
from megatron_srp.training.layout.layouts import Layout
from megatron_srp.training.layout.recommend import recommend


def pretrain_config(
    preset: str, data_path: list[str], *, gpus: int = 1, train_iters: int | None = None, save: str | None = None
) -> ConfigContainer:
    """A run of a preset, such as "1p7b" or "8b", on shards or sidecars; its fields may be changed before it starts.

    Args:
        preset: name of one without experts.
        data_path: one path, or weights and paths in turn. The tokenizer is that of the data.
        gpus: number of H100s, for which the fastest layout by `srp presets` is taken.
        train_iters: steps, over which the schedule is stretched; None for the preset's.
        save: folder of the checkpoints, from which the run resumes.

    Raises:
        UsageError: for an unknown preset, one with experts, or data whose tokenizer is not recorded.
    """
    chosen = find_preset(preset)
    if chosen.experts:
        raise UsageError(f"{preset}: has experts, for which Bridge has recipes of its own; choose one without")
    if train_iters is not None:
        chosen = replace(chosen, recipe=replace(chosen.recipe, train_iters=train_iters))
    layout = recommend(chosen, gpus).layout
    model = GPTModelProvider(**provider_of_preset(chosen))
    _lay_out(model, layout)
    recipe = chosen.recipe
    return ConfigContainer(
        model=model,
        train=TrainingConfig(
            train_iters=recipe.train_iters,
            micro_batch_size=layout.micro_batch,
            global_batch_size=recipe.global_batch_size or layout.micro_batch * layout.data,
        ),
        validation=ValidationConfig(eval_interval=1000, eval_iters=0),
        optimizer=_optimizer(chosen),
        scheduler=_scheduler(chosen),
        ddp=DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True),
        dataset=SRPDatasetProvider(data_path=data_path, seq_length=recipe.seq_length, split="1,0,0"),
        logger=LoggerConfig(log_interval=10),
        tokenizer=_tokenizer(data_path),
        checkpoint=CheckpointConfig(save=save, load=save, save_interval=1000, ckpt_format="torch_dist"),
        mixed_precision="bf16_mixed" if recipe.bf16 else None,
    )


def _lay_out(model: Any, layout: Layout) -> None:
    model.tensor_model_parallel_size, model.pipeline_model_parallel_size = layout.tensor, layout.pipeline
    model.sequence_parallel = layout.tensor > 1
    if layout.virtual > 1:
        model.virtual_pipeline_model_parallel_size = layout.virtual
    if layout.recompute:
        model.recompute_granularity, model.recompute_method, model.recompute_num_layers = "full", "uniform", 1


def _optimizer(preset: ModelPreset) -> OptimizerConfig:
    recipe = preset.recipe
    return OptimizerConfig(
        optimizer="adam",
        lr=recipe.lr,
        min_lr=0.0,
        weight_decay=recipe.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_eps=1e-8,
        clip_grad=1.0,
        bf16=recipe.bf16,
        use_distributed_optimizer=True,
    )


def _scheduler(preset: ModelPreset) -> SchedulerConfig:
    recipe = preset.recipe
    return SchedulerConfig(
        lr_decay_style="WSD",
        lr_wsd_decay_style="linear",
        lr_decay_iters=recipe.train_iters,
        lr_wsd_decay_iters=max(1, round(recipe.decay_fraction * recipe.train_iters)),
        lr_warmup_fraction=recipe.warmup_fraction,
        start_weight_decay=recipe.weight_decay,
        end_weight_decay=recipe.weight_decay,
        weight_decay_incr_style="constant",
        override_opt_param_scheduler=True,  # a resumed run may be longer
    )


def _tokenizer(data_path: list[str]) -> TokenizerConfig:
    """The tokenizer that the manifests of the data name."""
    for path in data_path:
        manifest = sidecar_manifest(path) if is_sidecar(path) else find_manifest(path)
        if manifest:
            made_with = manifest["tokenizer"]
            return TokenizerConfig(
                tokenizer_type=made_with["type"], tokenizer_model=made_with["model"], use_tokenizer_vocab_size=True
            )
    raise UsageError(f"{data_path[-1]}: no manifest says which tokenizer made it; set one with srp preprocess")
