"""Megatron Bridge: its trainer post-trains on the shards of `srp sft`.

    from megatron_srp.training.host.bridge_sft import SRPConversationsProvider

    config.dataset = SRPConversationsProvider(data_path=["out/chat"], seq_length=2048)
    config.model.calculate_per_token_loss = True  # average over all learned tokens of a step, as srp train does

Conversations fill a sequence, each with its own attention, which is Transformer Engine's for packed sequences.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from megatron.core.datasets.utils import Split

from megatron_srp.errors import UsageError
from megatron_srp.sft.training_set import Sequences, TrainingSet, parse_sources
from megatron_srp.training.datasets.sft_batch import packed_parameters
from megatron_srp.training.datasets.sft_dataset import PackedConversations
from megatron_srp.training.host.bridge import DatasetBuildContext, DatasetProvider
from megatron_srp.training.host.settings import check_tokenizer


class BridgeConversations(PackedConversations):
    """Packed conversations whose micro-batches Bridge's `gpt_step` takes."""

    @staticmethod
    def collate_fn(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Concatenate b sequences: tensors [1, b*s], and where each conversation begins (`cu_seqlens_q`, int32)."""
        stacked = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
        packed = packed_parameters(stacked["position_ids"])
        longest = torch.tensor(packed.max_seqlen_q, dtype=torch.int32)
        batch = {key: tensor.reshape(1, -1) for key, tensor in stacked.items()}
        batch["loss_mask"] = batch["loss_mask"].float()
        batch |= {"cu_seqlens_q": packed.cu_seqlens_q, "cu_seqlens_kv": packed.cu_seqlens_kv}
        return batch | {"max_seqlen_q": longest, "max_seqlen_kv": longest}


@dataclass(kw_only=True)
class SRPConversationsProvider(DatasetProvider):
    """Training and validation data of the shards of `srp sft`, for `ConfigContainer.dataset`.

    Attributes:
        data_path: as `--srp-sft`: shards, or how often an epoch uses each and its path in turn.
        valid_data_path: as `--srp-sft-valid`; None for no validation.
        seq_length: tokens of a sequence; that of the model.
        random_seed: of the order of the conversations.
    """

    data_path: list[str]
    seq_length: int
    valid_data_path: list[str] | None = None
    random_seed: int = 1234
    dataloader_type: Literal["single", "cyclic", "batch", "external"] | None = "single"

    def build_datasets(self, context: DatasetBuildContext) -> tuple[Any | None, Any | None, Any | None]:
        """Training and validation set, on every rank; no test set.

        Raises:
            UsageError, InputError: for parallelism that cuts conversations apart, or shards that cannot be read.
        """
        _check_groups(context.pg_collection)
        training = self._build(self.data_path, context.train_samples, context.tokenizer, Split.train)
        if self.valid_data_path is None:
            return training, None, None
        return training, self._build(self.valid_data_path, context.valid_samples, context.tokenizer, Split.valid), None

    def _build(self, paths: list[str], count: int, tokenizer: Any, split: Split) -> BridgeConversations:
        found = TrainingSet(parse_sources(paths, "data_path"), self.seq_length, self.random_seed)
        check_tokenizer(tokenizer, dict(zip([source.prefix for source in found.sources], found.manifests, strict=True)))
        return BridgeConversations(Sequences(found, count), split)


def _check_groups(groups: Any) -> None:
    """Every rank needs whole sequences, and where their conversations begin."""
    for name, group in (("context", "cp"), ("pipeline", "pp")):
        if groups is not None and getattr(groups, group).size() > 1:
            raise UsageError(
                f"{name} parallelism of {getattr(groups, group).size()}: packed conversations are not passed on "
                "there; use tensor and data parallelism, or `srp train --srp-sft`"
            )
