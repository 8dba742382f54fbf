"""A training script on megatron.training, as small as it gets. It knows nothing of this project; `srp run` runs it."""

from functools import partial

import torch
from megatron.core import mpu
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.enums import ModelType
from megatron.core.tensor_parallel import broadcast_data
from megatron.training import get_args, get_tokenizer, pretrain
from megatron.training.argument_utils import gpt_config_from_args, pretrain_cfg_container_from_args
from megatron.training.arguments import parse_and_validate_args
from megatron.training.utils import get_blend_and_blend_per_split


def build_datasets(num_samples, vp_stage=None):
    args = get_args()
    blend, blend_per_split = get_blend_and_blend_per_split(args)
    config = GPTDatasetConfig(
        random_seed=args.seed,
        sequence_length=args.seq_length,
        blend=blend,
        blend_per_split=blend_per_split,
        split=args.split,
        tokenizer=get_tokenizer(),
        path_to_cache=args.data_cache_path,
        reset_position_ids=args.reset_position_ids,
        reset_attention_mask=args.reset_attention_mask,
        eod_mask_loss=args.eod_mask_loss,
        create_attention_mask=False,
        allow_ambiguous_pad_tokens=args.allow_ambiguous_pad_tokens,
    )
    return BlendedMegatronDatasetBuilder(GPTDataset, num_samples, reads_data, config).build()


def reads_data():
    return mpu.get_tensor_model_parallel_rank() == 0


build_datasets.is_distributed = True


def loss_function(loss_mask, losses):
    loss, count = (losses.float() * loss_mask).sum(), loss_mask.sum().int()
    return loss, count, {"lm loss": torch.stack([loss.detach(), count.float()])}


def forward_step(data_iterator, model):
    sample = next(data_iterator) if data_iterator is not None else None
    batch = broadcast_data(["tokens", "labels", "position_ids"], sample, torch.int64)
    mask = broadcast_data(["loss_mask"], sample, torch.float32)["loss_mask"]
    losses = model(batch["tokens"], batch["position_ids"], None, labels=batch["labels"])
    return losses, partial(loss_function, mask)


if __name__ == "__main__":
    args = parse_and_validate_args()
    config = pretrain_cfg_container_from_args(args, gpt_config_from_args(args))
    pretrain(config, build_datasets, ModelType.encoder_or_decoder, forward_step)
