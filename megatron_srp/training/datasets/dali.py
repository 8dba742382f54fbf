"""`--srp-dataloader dali`: the batches of Megatron's own loader, through a pipeline of NVIDIA DALI.

Megatron's loader still decides which samples come when (so that a resumed run continues where it
stopped) and reads them, in its worker processes. DALI prefetches its batches
and copies them to the GPU on its own stream, where they wait until they are needed.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from megatron_srp.errors import UsageError

PREFETCHED_BATCHES = 2


def check_installed() -> None:
    """Raises UsageError if DALI is not installed."""
    try:
        found = find_spec("nvidia.dali")
    except ModuleNotFoundError:  # its parent package is missing too
        found = None
    if found is None:
        raise UsageError(
            "--srp-dataloader dali: NVIDIA DALI is not installed. Install it with: pip install nvidia-dali-cuda130 "
            "(the NGC PyTorch image brings it), or leave the flag out for Megatron's own loader"
        )


class DaliLoader:
    """Iterates over the batches of a torch loader, through DALI.

    Args:
        loader: yields dictionaries of tensors, each [b, ...] with the same b.
        device_id: of the GPU that the batches go to; None leaves them on the CPU.

        Each iteration restarts the loader and yields the same dictionaries in the same order.
    """

    def __init__(self, loader: Any, device_id: int | None) -> None:
        self._loader, self._device_id = loader, device_id

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        import itertools

        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        batches = iter(self._loader)
        first = next(batches, None)
        if first is None:
            return
        pipeline = self._pipeline(itertools.chain([first], batches), list(first), len(next(iter(first.values()))))
        for (batch,) in DALIGenericIterator([pipeline], list(first), prepare_first_batch=False):
            yield batch

    def _pipeline(self, batches: Iterator[dict[str, Any]], keys: list[str], batch_size: int) -> Any:
        from nvidia.dali import fn, pipeline_def

        # NumPy arrays share the tensors' memory, and DALI does not synchronize CUDA streams for them.
        device: Any = self._device_id  # DALI's own annotation omits None
        arrays = ([batch[key].numpy() for key in keys] for batch in batches)

        @pipeline_def(
            batch_size=batch_size,
            num_threads=1,
            device_id=device,
            prefetch_queue_depth=PREFETCHED_BATCHES,
        )
        def tokens() -> tuple[Any, ...]:
            outputs = fn.external_source(source=arrays, num_outputs=len(keys), batch=True)
            return tuple(output if self._device_id is None else output.gpu() for output in outputs)

        return tokens()


def through_dali(build_loader: Callable[..., Any], device_id: int | None) -> Callable[..., Any]:
    """Megatron's `build_pretraining_data_loader`, with its loaders wrapped."""

    def build(dataset: Any, consumed_samples: int) -> Any:
        loader = build_loader(dataset, consumed_samples)
        return None if loader is None else DaliLoader(loader, device_id)

    return build
