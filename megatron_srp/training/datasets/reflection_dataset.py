"""Megatron's GPTDataset over plain shards and sidecars. Needs megatron.core only, not the trainer."""

from dataclasses import dataclass, field
from typing import Any

from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from megatron_srp.data.shards.sidecar import read_header
from megatron_srp.data.shards.view import ReflectedIndexedDataset


@dataclass
class ReflectionGPTDatasetConfig(GPTDatasetConfig):
    """Megatron's configuration, and which shards have sidecars."""

    srp_sidecars: dict[str, str] = field(default_factory=dict)
    """Path of the sidecar of a shard, by the shard's path prefix"""

    srp_fingerprints: dict[str, str] = field(init=False)
    """The sidecars' fingerprints, by the same prefixes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.srp_fingerprints = {prefix: read_header(path)["fingerprint"] for prefix, path in self.srp_sidecars.items()}


class ReflectionGPTDataset(GPTDataset):
    """Reads a shard that has a sidecar as the shard with reflections, and any other as GPTDataset does."""

    @staticmethod
    def build_low_level_dataset(dataset_path: str, config: ReflectionGPTDatasetConfig) -> Any:
        if dataset_path in config.srp_sidecars:
            return ReflectedIndexedDataset(dataset_path, config.srp_sidecars[dataset_path])
        return GPTDataset.build_low_level_dataset(dataset_path, config)

    @staticmethod
    def _key_config_attributes() -> list[str]:
        # Megatron names its sample indices on disk after these. Without the fingerprints it would silently use an
        # index made for other reflections, whose lengths differ.
        return [*GPTDataset._key_config_attributes(), "srp_fingerprints"]
