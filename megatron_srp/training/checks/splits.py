"""The parts of a run's data: is there something to train on and to evaluate on, and at least one full sequence?

Imports neither torch nor Megatron, which ends such a run with a traceback, or silently without training.
"""

import argparse
import re
from pathlib import Path

from megatron_srp.errors import UsageError
from megatron_srp.remote.drivers import on_s3
from megatron_srp.training.checks import data as shards
from megatron_srp.training.checks.object_storage import remote_shard
from megatron_srp.training.checks.sidecars import match_sidecars, only_megatron_reads, shard_of

Blend = list[tuple[float | None, str]]

PARTS = ("train", "valid", "test")
MEGATRONS_SPLIT = "969, 30, 1"  # used without --split and without a blend for each part


def check_parts(args: argparse.Namespace) -> None:
    """Refuse data without a part to train on, an evaluation blend that is never read, and a shard that is too short.

    Args:
        args: of the run, whose shards `check_shards` has checked.
    """
    if args.srp_sft or args.mock_data:
        return
    parts = _parts(args)
    if "train" not in parts:
        raise UsageError("there is nothing to train on: pass --train-data-path PREFIX")
    if args.eval_iters == 0:
        _check_unread(args, parts)
    if args.seq_length is not None:
        _check_lengths(args)


def _parts(args: argparse.Namespace) -> dict[str, Blend]:
    """The blend for each part of the run's data."""
    blends = dict(shards.blends(args))
    whole = blends.pop("all", None)
    if whole is None:
        return blends
    shares = _shares(args.split or MEGATRONS_SPLIT)
    if not shares[0]:
        raise UsageError(
            f"--split {args.split} leaves nothing to train on: its first number is the training part; pass 99,1,0, or "
            "1,0,0 to train on everything"
        )
    return {part: whole for part, share in zip(PARTS, shares, strict=False) if share}


def _shares(split: str) -> list[float]:
    try:  # as Megatron reads it
        shares = [float(number) for number in re.findall(r"[.0-9]+", split)]
    except ValueError:
        shares = []
    if not 1 <= len(shares) <= len(PARTS) or not sum(shares):
        raise UsageError(f"--split {split}: pass the shares to train, validate and test on, such as 98,1,1")
    return shares


def _check_unread(args: argparse.Namespace, parts: dict[str, Blend]) -> None:
    """Megatron builds a blend of as many samples as it evaluates on, and fails if that is none.

    It takes a single shard whole.
    """
    for part in PARTS[1:]:
        blend = parts.get(part, [])
        weighted = blend is parts["train"] and any(weight is not None for weight, _ in blend)
        if (len(blend) < 2 and not weighted) or (part == "valid" and args.full_validation):
            continue
        shared = blend is parts["train"]
        given = f"--split {args.split or MEGATRONS_SPLIT.replace(' ', '')}" if shared else f"the {part} blend"
        unused = "--split 1,0,0 to train on everything" if shared else f"leave the {part} shards out"
        raise UsageError(
            f"--eval-iters 0 and {given} do not go together: no sample of the {part} part would be read, and Megatron "
            f"refuses an empty blend. Pass --eval-iters 1 or more, or {unused}"
        )


def _check_lengths(args: argparse.Namespace) -> None:
    prefixes = [prefix for prefix in shards.shard_prefixes(args) if not only_megatron_reads(prefix)]
    sidecars = match_sidecars(args.srp_sidecar or [], prefixes)
    needed = args.seq_length + 1  # the last token of a sequence is a label only
    for prefix in prefixes:
        tokens = count_tokens(prefix)
        if tokens is None or tokens >= needed:
            continue
        if prefix in sidecars and on_s3(shard_of(prefix)):
            continue  # it is longer with its reflections, by how much only Megatron's reader finds out
        if prefix in sidecars:  # such a short shard is read in no time
            from megatron_srp.data.shards.view import ReflectedIndexedDataset

            tokens = int(ReflectedIndexedDataset(shard_of(prefix), sidecars[prefix]).sequence_lengths.sum())
        if tokens < needed:
            raise UsageError(
                f"{prefix} has {tokens:,} tokens, and a sequence of --seq-length {args.seq_length} takes {needed:,}: "
                "it would be repeated within each. Pass a shorter --seq-length, or more text"
            )


def count_tokens(prefix: str) -> int | None:
    """Tokens in a shard's .bin; None for a type of token that is not known here."""
    from megatron_srp.data.shards.indexed_shard import TYPE_CODES

    code, _ = shards.read_index_header(prefix)
    sizes = {code: dtype.itemsize for dtype, code in TYPE_CODES.items()}
    if code not in sizes:
        return None
    shard = shard_of(prefix)
    return (remote_shard(shard).bin_bytes if on_s3(shard) else Path(f"{shard}.bin").stat().st_size) // sizes[code]
