"""Makes all partitions of a data job on a Ray cluster, which may be this machine alone, and joins them.

Each partition is one Ray task. One whose machine or process is lost is restarted and resumes from its
journal; one that fails on its input is not restarted, and does not stop the others.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_srp.corpus.input_files import InputFiles
from megatron_srp.corpus.partitions import Partition
from megatron_srp.data.preprocess.summary import print_summary
from megatron_srp.data.preprocess.text_job import run_job
from megatron_srp.data.preprocess.text_pipeline import require_documents
from megatron_srp.data.shards.manifest import manifest_path
from megatron_srp.data.shards.merge import merge_shards
from megatron_srp.data.shards.parts import find_parts
from megatron_srp.errors import InputError, OutputError, SrpError, UsageError
from megatron_srp.ray_cluster import ray_cluster
from megatron_srp.remote.remote_file import InputFile
from megatron_srp.terminal.display import ProgressDisplay
from megatron_srp.terminal.progress import Progress

_RETRIES = 3
_REPORT_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a partition: its manifest and the first skipped rows, or its error in one line."""

    manifest: dict[str, Any] | None = None
    skipped: list[str] = field(default_factory=list)
    error: str = ""
    exit_code: int = 0


class Board:
    """The actor to which the partitions report."""

    def __init__(self) -> None:
        self._progress: dict[int, Progress] = {}
        self._lines: list[str] = []

    def update(self, index: int, progress: Progress) -> None:
        self._progress[index] = progress

    def say(self, line: str) -> None:
        self._lines.append(line)

    def read(self) -> tuple[dict[int, Progress], list[str]]:
        """The progress of the partitions, and the lines since the last call."""
        lines, self._lines = self._lines, []
        return self._progress, lines


class RemoteDisplay:
    """A partition's `Display`: forwards everything to the board."""

    def __init__(self, board: Any, index: int) -> None:
        self._board, self._index, self._sent = board, index, 0.0

    def update(self, progress: Progress) -> None:
        if time.monotonic() - self._sent > _REPORT_EVERY_S:
            self._sent = time.monotonic()
            self._board.update.remote(self._index, progress)

    def note(self, line: str) -> None:
        self._board.say.remote(f"partition {self._index}: {line}")

    def warn(self, line: str) -> None:
        self.note(f"warning: {line}")


def make_partition(args: argparse.Namespace, files: InputFiles, index: int, board: Any) -> Outcome:
    """The task: make partition `index`, on any machine."""
    try:
        return Outcome(*run_job(args, files, RemoteDisplay(board, index)))
    except SrpError as error:
        return Outcome(error=str(error), exit_code=error.exit_code)
    except OSError as error:
        return Outcome(error=f"{error.filename or 'no file named'}: {error.strerror or error}", exit_code=1)


def run_on_ray(args: argparse.Namespace, files: list[InputFile]) -> None:
    """Make all partitions of `files` and join them, as the parsed flags of `srp preprocess` ask.

    Raises:
        UsageError: when Ray is not installed, or the cluster does not answer.
        InputError, OutputError: when a partition failed, after a line about each.
    """
    base = Path(args.output_prefix).absolute()
    if not args.no_merge and not args.overwrite and manifest_path(base).exists():
        raise UsageError(f"{manifest_path(base)} exists already; pass --overwrite to replace it")
    absolute = [file.absolute() for file in files]
    partitions = [Partition(index, args.num_partitions) for index in range(args.num_partitions)]
    parts = {part: given for part in partitions if (given := InputFiles(absolute, part)).own}
    with ProgressDisplay() as display, ray_cluster(args.ray_address) as ray:
        outcomes = _run(ray, _for_other_machines(args), parts, display)
    _raise_failures(outcomes)
    skipped = [line for outcome in outcomes for line in outcome.skipped]
    prefixes = [part.prefix(base) for part in parts]
    if args.no_merge:
        print(f"made {', '.join(prefixes[:4])}{' and so on' if len(prefixes) > 4 else ''}")
        return
    manifest = merge_shards(find_parts(prefixes, base), base, args.overwrite)
    print_summary(args.output_prefix, manifest, skipped[:10])
    print(f"the {len(parts)} partitions it is joined from are kept, {prefixes[0]} and so on")
    require_documents(manifest)


def _for_other_machines(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with absolute paths: tasks run in folders of their own."""
    paths = {"output_prefix": args.output_prefix, "annotations": args.annotations}
    if Path(args.tokenizer_model).exists():  # else it is a name on the hub
        paths["tokenizer_model"] = args.tokenizer_model
    absolute = {name: str(Path(path).absolute()) for name, path in paths.items() if path}
    return argparse.Namespace(**vars(args) | absolute)


def _run(
    ray: Any, args: argparse.Namespace, parts: dict[Partition, InputFiles], display: ProgressDisplay
) -> list[Outcome]:
    """The outcome of each partition."""
    most = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    cpus = min(args.workers, most)  # a task for which no machine has enough cores would wait forever
    board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    make = ray.remote(make_partition).options(num_cpus=cpus, max_retries=_RETRIES, retry_exceptions=False)
    pending = {make.remote(args, files, part.index, board): part for part, files in parts.items()}
    outcomes: dict[int, Outcome] = {}
    sizes = {part: files.own_size for part, files in parts.items()}
    progress = {part.index: Progress(len(files.own), sizes[part]) for part, files in parts.items()}
    try:
        while pending:
            done, _ = ray.wait(list(pending), timeout=_REPORT_EVERY_S)
            reported, lines = ray.get(board.read.remote())
            for line in lines:
                display.note(line)
            progress |= reported
            for task in done:
                part = pending.pop(task)
                outcomes[part.index] = outcome = _outcome(ray, task)
                if outcome.error:
                    display.note(f"error: partition {part.index} of {part.count}: {outcome.error}")
                progress[part.index].consumed, progress[part.index].file = sizes[part], len(parts[part].own)
            display.update(sum(progress.values(), Progress(0, 0)))
    finally:
        for task in pending:
            ray.cancel(task, force=True)
    return [outcomes[part.index] for part in parts]


def _outcome(ray: Any, task: Any) -> Outcome:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        return Outcome(error=f"{type(error.cause).__name__}: {error.cause}; Ray's logs have the rest", exit_code=1)
    except ray.exceptions.RayError as error:
        reason = (str(error).splitlines() or [""])[0]
        return Outcome(error=f"lost {_RETRIES + 1} times ({type(error).__name__}: {reason})", exit_code=1)


def _raise_failures(outcomes: list[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        kind = OutputError if any(outcome.exit_code == 1 for outcome in failed) else InputError
        raise kind(
            f"{len(failed)} of {len(outcomes)} partitions failed; the others are kept, and nothing committed is "
            "lost: remove the cause, then rerun the same command"
        )
