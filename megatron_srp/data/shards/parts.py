"""Finished outputs to be used together: checks that all are there and fit together."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_srp.corpus.partitions import parse_name, partition_name
from megatron_srp.data.shards.manifest import SUFFIX, manifest_path, read_manifest
from megatron_srp.data.shards.output import WORK_SUFFIX
from megatron_srp.errors import InputError, UsageError

_NAMED = 8  # named in one message


@dataclass(frozen=True, slots=True)
class Part:
    """A finished output: its prefix and its manifest."""

    prefix: Path
    manifest: dict[str, Any]

    @property
    def partition(self) -> dict[str, int] | None:
        return self.manifest["settings"].get("partition")

    def shard(self, key: str) -> dict[str, Any]:
        """The manifest's entry of the shard of `key`."""
        return next(shard for shard in self.manifest["shards"] if shard["key"] == key)


def find_parts(names: Sequence[str | Path], output: Path | None = None) -> list[Part]:
    """The outputs with these `names`, in that order, and partitions of a set in partition order.

    Args:
        names: output prefixes (or their manifests); the common prefix of partitions stands for all of
            them.
        output: where they are to be joined; the same name as an input means its partitions.

    Raises:
        UsageError: when an output is named twice.
        InputError: when one is missing or unfinished, or a partition of a set is missing.
    """
    parts: list[Part] = []
    for name in names:
        prefix = Path(str(name).removesuffix(SUFFIX))
        alone = manifest_path(prefix).exists() and not (output and prefix.resolve() == output.resolve())
        prefixes = [prefix] if alone else _partitions_of(prefix) or [prefix]
        parts += [Part(prefix, _read(prefix)) for prefix in prefixes]
    places = [part.prefix.resolve() for part in parts]
    if output and output.resolve() in places:
        raise UsageError(f"{output} is one of the shards to be joined; pass another output prefix")
    for part, place in zip(parts, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{part.prefix} is passed twice; its documents would be in the result twice")
    return _in_order(parts)


def _read(prefix: Path) -> dict[str, Any]:
    if not manifest_path(prefix).exists() and Path(f"{prefix}{WORK_SUFFIX}").exists():
        raise InputError(f"{prefix} is not finished; rerun the command that makes it, then join")
    manifest = read_manifest(manifest_path(prefix))
    if manifest.get("sft"):
        raise UsageError(f"{prefix} has a loss mask, which would be lost; join its JSON lines and rebuild the shard")
    if manifest.get("sidecars"):
        raise UsageError(
            f"{prefix} holds sidecars for shards elsewhere, and no shards; pass those in a blend with "
            "their sidecars in --srp-sidecar, or make shards to join with --materialize"
        )
    return manifest


def _partitions_of(prefix: Path) -> list[Path]:
    """Prefixes of the finished partitions that were made under `prefix`."""
    found = [parse_name(path.name.removesuffix(SUFFIX)) for path in prefix.parent.glob(f"*-of-*{SUFFIX}")]
    own = sorted(name for name in found if name and name[0] == prefix.name)
    counts = sorted({count for _, _, count in own})
    if len(counts) > 1:
        raise UsageError(
            f"{prefix} was made in {' and in '.join(map(str, counts))} partitions; pass those to join, "
            f"for example {prefix}-*-of-{counts[0]:05}{SUFFIX}"
        )
    return [prefix.with_name(partition_name(*name)) for name in own]


def _in_order(parts: list[Part]) -> list[Part]:
    """The outputs, with the partitions of each set in order at the position of the first; none may be missing."""
    sets: dict[Any, list[Part]] = {}
    for part in parts:
        name = parse_name(part.prefix)
        of_set = part.partition and ((name or ("",))[0], part.partition["count"])
        sets.setdefault(of_set or part.prefix, []).append(part)
    for members in sets.values():
        if members[0].partition:
            members.sort(key=lambda part: (part.partition or {})["index"])
            _require_all(members)
    return [part for members in sets.values() for part in members]


def _require_all(members: list[Part]) -> None:
    first = members[0].partition or {}
    have = {(part.partition or {})["index"] for part in members}
    missing = [index for index in range(first["used"]) if index not in have]
    if not missing:
        return
    base = (parse_name(members[0].prefix) or (str(members[0].prefix),))[0]
    states = [f"{i} ({_state(base, i, first['count'])})" for i in missing[:_NAMED]]
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    raise InputError(
        f"{base}: of {first['count']} partitions {len(missing)} are missing: {', '.join(states)}{more}; "
        f"make them with --partition-index, and pass all of the set"
    )


def _state(base: str, index: int, count: int) -> str:
    prefix = partition_name(base, index, count)
    if Path(f"{prefix}{WORK_SUFFIX}").exists():
        return "not finished"
    return "not named" if manifest_path(prefix).exists() else "not there"


def refuse_different(parts: Sequence[Part], names: Iterable[str] | None = None) -> None:
    """Raises UsageError that names the first setting in which two of the parts differ.

    Args:
        names: which settings to compare; by default all that determine tokens.
    """
    first = _comparable(parts[0])
    for part in parts[1:]:
        other = _comparable(part)
        for name in names or {**first, **other}:
            for setting, before, now in _differences(name, first.get(name), other.get(name)):
                raise UsageError(
                    f"{part.prefix} does not fit {parts[0].prefix}: {setting} is {now!r}, not {before!r}; "
                    "make it again with the same settings, or train on a blend of the two"
                )


def _comparable(part: Part) -> dict[str, Any]:
    """The manifest's settings that must be equal, the most informative first."""
    manifest = part.manifest
    named = {
        "tokenizer": {name: manifest["tokenizer"][name] for name in ("fingerprint", "vocab_size", "eos_id")},
        "dtype": [shard["dtype"] for shard in manifest["shards"]],
        "reflection": manifest["reflection"],
        "policy": manifest.get("policy"),
    }
    others = {name: value for name, value in manifest["settings"].items() if name not in ("inputs", "partition")}
    return named | {name: value for name, value in others.items() if name not in named}


def _differences(name: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _differences(f"{name}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield name, before, now


def blends(parts: Sequence[Part]) -> dict[str, list[str]]:
    """By JSON key, the value of `--data-path` to train on all parts in proportion to their tokens.

    Raises:
        UsageError: when their tokenizers differ.
        InputError: when there are no tokens.
    """
    refuse_different(parts, ["tokenizer"])
    found: dict[str, list[str]] = {}
    for part in parts:
        for shard in part.manifest["shards"]:
            if shard["tokens"]:
                found.setdefault(shard["key"], []).extend(
                    [str(shard["tokens"]), str(part.prefix.with_name(shard["name"]))]
                )
    if not found:
        raise InputError("none of the shards has a document; there is nothing to train on")
    return found
