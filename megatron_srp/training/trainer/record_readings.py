"""Record what a run reads (`host/readings.py`), when its datasets are built: rank 0, in the --save folder.

Relies on: Megatron builds the datasets after it has loaded a checkpoint, so the arguments have its iteration.
"""

import functools
from pathlib import Path
from typing import Any

from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.training import get_args

from megatron_srp.data.shards.data_path import is_sidecar
from megatron_srp.data.shards.sidecar import read_header
from megatron_srp.training.host.readings import CONFIG_FIELDS, Reading, append_reading
from megatron_srp.training.host.register import reads_sidecars
from megatron_srp.training.host.settings import data_paths
from megatron_srp.training.process.exits import rank


def record_readings() -> None:
    """From now on each start of a run is recorded; call it after `register()`."""
    plain: Any = BlendedMegatronDatasetBuilder.__init__

    @functools.wraps(plain)
    def init(builder: Any, cls: Any, sizes: Any, is_built_on_rank: Any, config: Any) -> None:
        plain(builder, cls, sizes, is_built_on_rank, config)
        save = get_args().save
        if rank() == 0 and save and "://" not in save and reads_sidecars(cls) and sizes[0]:
            append_reading(Path(save), _describe(get_args(), sizes, config))

    BlendedMegatronDatasetBuilder.__init__ = init


def _describe(args: Any, sizes: Any, config: Any) -> Reading:
    changes = args.rampup_batch_size or getattr(args, "step_batch_size_schedule", None)
    sidecars = [path for path in data_paths(config) if is_sidecar(path)]
    return Reading(
        iteration=args.iteration,
        consumed_samples=args.consumed_train_samples,
        global_batch_size=None if changes else args.global_batch_size,
        loader=args.dataloader_type,
        sizes=list(sizes),
        config={field: getattr(config, field) for field in CONFIG_FIELDS},
        fingerprints={path: read_header(path)["fingerprint"] for path in sidecars},
    )
