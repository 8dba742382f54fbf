"""`megatron_srp.register()`: from then on the datasets of a Megatron program read sidecars.

    import megatron_srp

    megatron_srp.register()  # before its datasets are built
    config = GPTDatasetConfig(blend=(["out/w200.srp", "out/plain_text_document"], [0.7, 0.3]), ...)

Four methods of megatron.core are wrapped, and everything else is the program's own. What they rely on, in 0.19 and
0.20 (`tests/integration/test_register.py` fails where it changes):

    BlendedMegatronDatasetBuilder.__init__(cls, sizes, is_built_on_rank, config)
        is called on every rank before the first dataset is built: here mistakes are found, on all ranks alike
    GPTDataset.build_low_level_dataset(dataset_path, config)
        a static method that opens one data path; FIM's and other kinds inherit it
    MegatronDataset.__init__(dataset, dataset_path, ...)
        names the cached indices after a hash of `dataset_path`, to which a sidecar's fingerprint is added: a sidecar
        that is replaced under the same name is never read with the old index
    GPTDataset.__getitem__(dataset, number)
        returns a sample, whose loss mask follows the sidecar's policy (`policy_hooks.py`)
"""

import functools
import gc
import sys
from types import TracebackType
from typing import Any

from megatron_srp.data.shards.data_path import is_sidecar, plain_prefix
from megatron_srp.data.shards.sidecar import read_header
from megatron_srp.data.shards.streamed_shard import StreamedShard
from megatron_srp.data.shards.view import ReflectedIndexedDataset
from megatron_srp.errors import SrpError, UsageError
from megatron_srp.training.checks.data import check_files
from megatron_srp.training.host.object_storage import prepare_object_storage
from megatron_srp.training.host.policy_hooks import add_plain_samples, refuse_unhooked, treating
from megatron_srp.training.host.settings import check_data, data_paths
from megatron_srp.training.host.versions import check_host
from megatron_srp.training.process.exits import exit_together

_MARK, _BASE = "_reads_sidecars", "_with_the_hooks"


def register() -> None:
    """Let the datasets of this process read sidecars, whoever builds them; a second call does nothing.

        >>> import megatron_srp
        >>> megatron_srp.register()

    An SrpError that the program does not catch, such as one for settings that would undo the method, is one line on
    rank 0, and all ranks end.

    Raises:
        UsageError: when megatron-core is a release that was not tested, or datasets have been built already.
    """
    _end_in_one_line()
    check_host()
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset
    from megatron.core.datasets.megatron_dataset import MegatronDataset

    if hasattr(GPTDataset, _MARK):
        return
    _refuse_built(GPTDataset)
    BlendedMegatronDatasetBuilder.__init__ = _checking(BlendedMegatronDatasetBuilder.__init__)
    open_plain = GPTDataset.build_low_level_dataset
    GPTDataset.build_low_level_dataset = staticmethod(_opening(open_plain))
    GPTDataset.__getitem__ = treating(GPTDataset.__getitem__)
    MegatronDataset.__init__ = _naming(MegatronDataset.__init__, open_plain, GPTDataset)
    setattr(GPTDataset, _MARK, GPTDataset.build_low_level_dataset)
    setattr(GPTDataset, _BASE, GPTDataset)


def _refuse_built(kind: type) -> None:
    """A dataset that exists has opened its shards without their reflections."""
    kinds = {id(one): one for one in map(type, gc.get_objects())}  # far fewer than objects, and ABCs check slowly
    if any(issubclass(one, kind) for one in kinds.values()):
        raise UsageError(
            "megatron_srp.register() is called after datasets were built, which read their shards without reflections; "
            "call it first, or start the program with `srp run`"
        )


def _checking(plain_init: Any) -> Any:
    @functools.wraps(plain_init)
    def init(builder: Any, cls: Any, sizes: Any, is_built_on_rank: Any, config: Any) -> None:
        if reads_sidecars(cls):
            check_data(config)
            refuse_unhooked(cls, getattr(cls, _BASE), data_paths(config))
        elif found := [path for path in data_paths(config) if is_sidecar(path)]:
            raise UsageError(
                f"{found[0]}: {cls.__name__} does not read indexed shards, so it cannot read a sidecar; pass data of "
                "its own kind"
            )
        plain_init(builder, cls, sizes, is_built_on_rank, config)

    return init


def reads_sidecars(cls: Any) -> bool:
    """Whether a dataset class opens its data with the method of GPTDataset that is wrapped here."""
    opener = getattr(cls, _MARK, None)
    return opener is not None and getattr(cls, "build_low_level_dataset", None) is opener


def _opening(plain_open: Any) -> Any:
    @functools.wraps(plain_open)
    def build_low_level_dataset(dataset_path: str, config: Any) -> Any:
        prepare_object_storage([dataset_path], config)  # a program need not use Megatron's builder
        if is_sidecar(dataset_path):
            check_data(config)
            plain = plain_prefix(dataset_path)
            streamed = StreamedShard(plain_open(plain, config)) if "://" in plain else None
            return ReflectedIndexedDataset(plain, dataset_path, streamed)
        check_files(dataset_path)
        return plain_open(dataset_path, config)

    return build_low_level_dataset


def _naming(plain_init: Any, open_plain: Any, base: type) -> Any:
    @functools.wraps(plain_init)
    def init(self: Any, dataset: Any, dataset_path: str | None, *args: Any, **kwargs: Any) -> None:
        reflected = isinstance(dataset, ReflectedIndexedDataset)
        if reflected:
            refuse_unhooked(type(self), base, [dataset.sidecar_path])  # a program need not use Megatron's builder
            dataset_path = f"{dataset_path}@{read_header(dataset.sidecar_path)['fingerprint']}"
        plain_init(self, dataset, dataset_path, *args, **kwargs)
        if reflected:
            add_plain_samples(self, open_plain, (self.indices, self.num_samples, self.index_split, self.config))

    return init


def _end_in_one_line() -> None:
    """End the program in one line for an SrpError that it does not catch; any other error as before."""
    show = sys.excepthook
    if hasattr(show, _MARK):
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, SrpError):
            exit_together(error)
        show(kind, error, traceback)

    setattr(hook, _MARK, True)
    sys.excepthook = hook
