"""How the reflections of a run look in tokens: how each verdict's begin, and how all end."""

import argparse
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from megatron_srp.data.shards.sidecar import ReflectionSidecar, sidecar_path
from megatron_srp.errors import UsageError
from megatron_srp.training.checks.data import shard_prefixes
from megatron_srp.training.checks.sidecars import match_sidecars
from megatron_srp.verdict_tree import common_beginning, until_apart

_HINTS = 100  # reflections with a hint to compare, for how they begin


@dataclass(frozen=True)
class Patterns:
    """Attributes:
    heads: for each verdict, the tokens of its reflections up to where it is set apart from the others.
    root: how many of them come before the verdict; all, if there is a single one.
    close: the tokens with which every reflection ends, before the end of text that may follow.
    """

    heads: dict[str, tuple[int, ...]]
    root: int
    close: tuple[int, ...]


def patterns_of(args: argparse.Namespace) -> Patterns:
    """The patterns in the data of a run.

    Raises:
        UsageError: when none of its data paths is a sidecar or a shard whose reflections are known.
    """
    paths = shard_prefixes(args)
    sidecars = match_sidecars(args.srp_sidecar or [], paths)
    next_to_shards = (sidecar_path(path) for path in paths if path not in sidecars)
    written = [*sidecars.values(), *(str(path) for path in next_to_shards if path.is_file())]
    loaded = [sidecar for path in written if _reflects(sidecar := ReflectionSidecar.load(path))]
    if not any(len(sidecar.cuts) for sidecar in loaded):
        raise UsageError(
            "--srp-log-reflections: the data have no reflections that are known; pass a sidecar as a data path, or a "
            "shard that `srp preprocess` wrote"
        )
    return find_patterns(loaded)


def _reflects(sidecar: ReflectionSidecar) -> bool:
    """Whether its policy writes reflections; a lone sidecar, as in tests, need not say so."""
    return sidecar.info.get("reflection", True) is not None


def find_patterns(sidecars: Iterable[ReflectionSidecar]) -> Patterns:
    """The patterns of the reflections in these sidecars, at least one."""
    ids: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for sidecar in sidecars:
        for entry in sidecar.table.entries:
            whole = entry.ids[:-1] if entry.stop else entry.ids
            if whole and not entry.inside:
                ids[str(entry.label.verdict)].append(whole)
        if sidecar.hints is not None:
            offsets = sidecar.hints.offsets
            rows = [row for row in range(min(_HINTS, len(offsets) - 1)) if offsets[row] < offsets[row + 1]]
            ids["Safe"] += [tuple(map(int, sidecar.hints.ids[offsets[row] : offsets[row + 1]])) for row in rows]
    everything = [whole for found in ids.values() for whole in found]
    close = tuple(reversed(common_beginning([whole[::-1] for whole in everything])))
    begins = {verdict: common_beginning(found) for verdict, found in ids.items()}
    if len(begins) == 1:  # nothing to be set apart from, so no token says which verdict it is
        ((verdict, begin),) = begins.items()
        return Patterns({verdict: tuple(begin)}, len(begin), close)
    heads = dict(zip(begins, map(tuple, until_apart([*begins.values()])), strict=True))
    return Patterns(heads, len(common_beginning([*begins.values()])), close)
