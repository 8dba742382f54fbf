"""Megatron Bridge: its trainer reads sidecars through a dataset provider.

    from megatron_srp.training.host.bridge import SRPDatasetProvider

    config = llama3_8b_pretrain_config()
    config.dataset = SRPDatasetProvider(data_path=["0.7", "out/w200.srp", "0.3", "out/plain_text"], seq_length=8192)

Bridge chooses the dataset by the type of `config.dataset`, and takes its own for every subclass of its
GPTDatasetConfig; a `DatasetProvider` builds its datasets itself (`megatron.bridge.data.utils.get_dataset_provider`,
in 0.6).
"""

from dataclasses import dataclass
from typing import Any, Literal

from megatron_srp.errors import UsageError
from megatron_srp.training.host.register import register

try:
    from megatron.bridge.data.base import DatasetBuildContext, DatasetProvider
except ImportError as error:
    raise UsageError(
        f"SRPDatasetProvider needs Megatron Bridge, which cannot be imported ({error}); pip install "
        "'megatron-srp[bridge]', where Transformer Engine is installed"
    ) from error


@dataclass(kw_only=True)
class SRPDatasetProvider(DatasetProvider):
    """Training, validation and test data of shards and sidecars, for `ConfigContainer.dataset`.

    Attributes:
        data_path: as Megatron's --data-path: one path, or weights and paths in turn; of shards or sidecars.
        seq_length: tokens of a sample; that of the model.
        split: shares of training, validation and test.
        random_seed: of the order of the samples.
        path_to_cache: folder for the indices; None for one next to each shard.
        object_storage_cache_path: for data on S3, folder for the indices of shards, and for the copies of sidecars.
    """

    data_path: list[str]
    seq_length: int
    split: str = "969,30,1"
    random_seed: int = 1234
    path_to_cache: str | None = None
    object_storage_cache_path: str | None = None
    dataloader_type: Literal["single", "cyclic", "batch", "external"] | None = "single"

    def build_datasets(self, context: DatasetBuildContext) -> tuple[Any | None, Any | None, Any | None]:
        """Megatron's own GPTDatasets for the three splits, on every rank.

        Args:
            context: the numbers of samples and the tokenizer, from Bridge.

        Raises:
            UsageError, InputError: for data that the run must not read, before any dataset is built.
        """
        register()
        from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
        from megatron.core.datasets.gpt_dataset import GPTDataset

        sizes = [context.train_samples, context.valid_samples, context.test_samples]
        train, valid, test = BlendedMegatronDatasetBuilder(
            GPTDataset, sizes, lambda: True, self._config(context.tokenizer)
        ).build()
        return train, valid, test

    def _config(self, tokenizer: Any) -> Any:
        from megatron.core.datasets.gpt_dataset import GPTDatasetConfig
        from megatron.core.datasets.utils import get_blend_from_list

        return GPTDatasetConfig(
            random_seed=self.random_seed,
            sequence_length=self.seq_length,
            blend=get_blend_from_list(self.data_path),
            split=self.split,
            path_to_cache=self.path_to_cache,
            object_storage_cache_path=self.object_storage_cache_path,
            mmap_bin_files=self.object_storage_cache_path is None,
            tokenizer=tokenizer,
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,  # attention makes its own causal mask
        )
