"""Megatron's dataset provider: shards with reflections, or conversations."""

from typing import Any

from megatron.core import mpu
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.training import get_args, get_tokenizer
from megatron.training.arguments import core_transformer_config_from_args
from megatron.training.utils import get_blend_and_blend_per_split, is_first_or_last_pipeline_stage

from megatron_srp.training.datasets.providers import DATASET_OPTIONS, DatasetKind, check_splits, choose_dataset
from megatron_srp.training.datasets.run_tokenizer import run_tokenizer
from megatron_srp.training.datasets.sft_dataset import build_sft_datasets
from megatron_srp.training.trainer.batch import predicts_more_tokens


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

    args = get_args()

    def reads_data() -> bool:
        model = core_transformer_config_from_args(args)
        return mpu.get_tensor_model_parallel_rank() == 0 and (
            is_first_or_last_pipeline_stage(vp_stage)
            or predicts_more_tokens(model, vp_stage)
            or args.dataloader_inter_document_masking  # every stage needs to know where documents begin
        )

    if args.srp_sft:  # every pipeline stage needs to know where conversations begin
        return build_sft_datasets(args, num_samples) if mpu.get_tensor_model_parallel_rank() == 0 else [None] * 3
    kind = choose_dataset(args)
    config = dataset_config(kind)
    check_splits(config)
    return BlendedMegatronDatasetBuilder(kind.dataset, num_samples, reads_data, config).build()


build_datasets.is_distributed = True  # type: ignore[attr-defined]  # called on every rank
