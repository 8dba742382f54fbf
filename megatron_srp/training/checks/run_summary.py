"""What a run will do, for the user to read before the first step: the data with their reflections, and the start.

data:
   70%  out/a_text_document: sidecar out/w50_a.srp, 9.8 reflections per 1,000 tokens of text, end-of-document tokens
   30%  out/b_text_document: no reflections, no end-of-document tokens
start: resumes at iteration 20 of out/checkpoints
"""

import argparse
from pathlib import Path
from typing import Any

from megatron_srp.data.reflection_table import Entry
from megatron_srp.data.shards.manifest import find_manifest
from megatron_srp.data.shards.sidecar import ReflectionSidecar, read_header, sidecar_path
from megatron_srp.training.checks.checkpoint import find_checkpoint
from megatron_srp.training.checks.data import shard_prefixes
from megatron_srp.training.checks.data_record import describe_shards
from megatron_srp.training.checks.sidecars import match_sidecars
from megatron_srp.training.checks.splits import count_tokens
from megatron_srp.training.process.repair_tracker import latest_iteration


def summarize_run(args: argparse.Namespace) -> str:
    """The block of lines. Conversations are omitted: `TrainingSet.describe` has a line for them."""
    return "\n".join([*_data_lines(args), f"start: {describe_start(args)}"])


def _data_lines(args: argparse.Namespace) -> list[str]:
    if args.mock_data:
        return ["data: Megatron's mock data"]
    if args.srp_sft:
        return []
    sidecars = match_sidecars(args.srp_sidecar or [], shard_prefixes(args))
    return ["data:", *(_shard_line(record, sidecars.get(record["shard"])) for record in describe_shards(args))]


def _shard_line(record: dict[str, Any], sidecar: str | None) -> str:
    weight, part = record["weight"], record["split"]
    share = "by size" if weight is None else f"{weight:.4g}" if weight > 1 else f"{100 * weight:.3g}%"
    facts = [_describe_reflections(record, sidecar), _END_OF_DOCUMENT[record["append_eod"]]]
    return f"  {share:>7}  {'' if part == 'all' else f'{part} '}{record['shard']}: {', '.join(facts)}"


_END_OF_DOCUMENT = {
    True: "end-of-document tokens",
    False: "no end-of-document tokens (--append-eod puts them in)",
    None: "end-of-document tokens unknown",
}


def _describe_reflections(record: dict[str, Any], sidecar: str | None) -> str:
    if sidecar:
        name = "" if sidecar == record["shard"] else f"sidecar {sidecar}, "
        if treated := describe_treatment(sidecar, count_tokens(record["shard"])):
            return name + treated
        return name + _density(count_reflections(sidecar), count_tokens(record["shard"]))
    if record.get("policy"):
        written = sidecar_path(record["shard"])
        treated = describe_treatment(written, _plain_tokens(record["shard"])) if written.is_file() else ""
        return treated or f"policy {record['policy']['name']}"
    if record["reflection"]:
        return _density(*_count_materialized(record["shard"]))
    return "reflections unknown (no manifest)" if record["tokenizer"] is None else "no reflections"


def describe_treatment(sidecar: str | Path, tokens: int | None) -> str:
    """What another policy than `srp` does, from the file's metadata; "" for `srp` from the start of training."""
    header = read_header(sidecar)
    policy = header["info"].get("policy")
    if not policy:
        return ""
    entries = list(zip(map(Entry.from_json, header["table"]), header["times"], strict=True))
    dropped, masked = (sum(n for entry, n in entries if entry.text == text) for text in ("drop", "mask"))
    written = sum(n for entry, n in entries if entry.ids or entry.hinted) + sum(
        n for entry, n in entries if entry.before
    )
    facts = [f"policy {policy['name']}"]
    facts += (
        [f"{1000 * written / tokens:.1f} reflections or tags per 1,000 tokens of text"] if written and tokens else []
    )
    facts += [f"{dropped:,} pieces left out"] if dropped else []
    facts += [f"{masked:,} pieces not learned"] if masked else []
    return ", ".join(
        [*facts, *([f"from {policy['start_share']:.3g} of the training on"] if policy["start_share"] else [])]
    )


def _plain_tokens(prefix: str) -> int | None:
    """Tokens of a reflected shard's text; None where no manifest says."""
    entries = (find_manifest(prefix) or {}).get("shards", [])
    found: list[int] = [entry["plain_tokens"] for entry in entries if entry["name"] == Path(prefix).name]
    return found[0] if found else None


def _density(reflections: int | None, tokens: int | None) -> str:
    if reflections is None or not tokens:
        return "reflections in the shard"
    return f"{1000 * reflections / tokens:.1f} reflections per 1,000 tokens of text"


def count_reflections(sidecar: str | Path) -> int:
    """The number of reflections, from the file's metadata, whatever its size."""
    return len(ReflectionSidecar.load(sidecar).cuts)


def _count_materialized(prefix: str) -> tuple[int | None, int | None]:
    """Reflections in a shard, and tokens of its text without them; None if the files do not say."""
    written = sidecar_path(prefix)
    return count_reflections(written) if written.is_file() else None, _plain_tokens(prefix)


def describe_start(args: argparse.Namespace) -> str:
    """The weights that a run starts from, and what it would overwrite.

    Raises:
        InputError: if `--load` has no checkpoint.
    """
    found = find_checkpoint(args)
    if found is not None:
        step = f"iteration {int(found.name[5:])}" if found.name.startswith("iter_") else found.name
        verb = "from the weights of" if args.finetune else "resumes at"
        return f"{verb} {step} of {found.parent}"
    if args.load is not None and "://" in args.load:
        return f"from {args.load}, if it has a checkpoint"
    if args.pretrained_checkpoint is not None:
        return f"from the weights of {args.pretrained_checkpoint}"
    local = args.save is not None and "://" not in args.save
    latest = latest_iteration(Path(args.save)) if local else None
    if latest is None:
        return "from scratch"
    return (
        f"from scratch, over the existing checkpoints in {args.save} (iteration {latest}); to resume from them add "
        f"--load {args.save}"
    )
