"""Who may write to a store: one run, or many that divide the input files among them.

Each run holds a lock on `STORE/writers/DIGEST-N-I.lock`, where DIGEST stands for the list of input files
and the key, N for the number of partitions and I for its index. Runs exclude each other unless they have
the same list and the same N, but different I: then no input file belongs to two of them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from megatron_srp.corpus.partitions import Partition
from megatron_srp.errors import OutputError, UsageError
from megatron_srp.files import digest, try_lock


class WriterLock:
    """Held while a run writes to the store; released when the process ends, however it ends.

    Args:
        folder: of the store.
        fingerprints: of all input files of the job, those of other partitions too.
        key: the JSON key of the texts.

    Attributes:
        warning: why there is no lock, on a file system without locks; else None.

    Raises:
        UsageError: when another run is writing what this one might write.
    """

    def __init__(self, folder: Path, fingerprints: Sequence[str], key: str, partition: Partition) -> None:
        self.warning: str | None = None
        self._descriptor = -1
        job = f"{digest([list(fingerprints), key])[:16]}-{partition.count}"
        own = folder / "writers" / f"{job}-{partition.index}.lock"
        try:
            own.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(own, os.O_RDWR | os.O_CREAT, 0o666)
            held = not try_lock(self._descriptor) or any(
                _is_held(path) for path in sorted(own.parent.glob("*.lock")) if not path.name.startswith(f"{job}-")
            )
        except OSError as error:
            self._without(folder, error)
            return
        if held:
            self.close()
            raise UsageError(
                f"another run is writing to {folder}; wait for it, use another --store, or divide the files: the "
                "same --input and --num-partitions N for all runs, and another --partition-index for each"
            )

    def _without(self, folder: Path, error: OSError) -> None:
        if self._descriptor < 0:
            raise OutputError(f"{error.filename or folder}: {error.strerror}; choose another --store") from None
        self.warning = (
            f"{folder}: this file system has no locks ({error.strerror}); make sure that no other run with the same "
            "partition writes there (it would do the same work twice, but spoil nothing)"
        )

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "WriterLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_held(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR)  # NFS grants an exclusive lock only on a file open for writing
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)
