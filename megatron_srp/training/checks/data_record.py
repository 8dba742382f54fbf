"""The shards of a run as its checkpoints record them, and how two runs differ.

Imports neither torch nor Megatron. The position in the data is a number of samples: in another blend, or with
reflections in other places, the same number is a different position.
"""

import argparse
from pathlib import Path
from typing import Any

from megatron_srp.data.policies.policy import policy_name
from megatron_srp.errors import UsageError
from megatron_srp.training.checks import data as shards
from megatron_srp.training.checks.sidecars import match_sidecars, only_megatron_reads, shard_of

# Fields that may differ between two runs, with their names in messages. Reflections are compared setting by setting.
_COMPARED = {
    "policy": "the policy",
    "start_share": "--start-share",
    "split": "the split",
    "weight": "the weight",
    "append_eod": "--append-eod",
    "max_words": "--max-words",
    "stop_after": "--stop-after",
    "controversial": "--controversial",
    "hints": "--hints",
    "sidecar": "the sidecar",
}
_CONTENT = ("bin", "idx")
# Megatron's settings of a run that choose its samples and their order.
_SAMPLING = {"seed": "--seed", "split": "--split", "seq_length": "--seq-length"}


def describe_shards(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One record, as JSON, for each shard of each blend, in order.

    shard                       its path prefix
    split, weight               None if the blend has none; weights of a split add up to 1
    bin, idx                    fingerprints of its files (size, beginning and end); None on object storage but S3
    tokenizer, eos_id           fingerprint and end-of-document token; of the sidecar if there is one
    append_eod                  whether documents end with that token
    chat_template               of conversations, which template writes them: tokenizer or plain
    policy                      what becomes of a segment; only where that is not a reflection after each
    reflection, max_words       how reflections are written, and the maximum words between two
    sidecar                     its fingerprint

    A field that neither manifest nor sidecar has is None.
    """
    sidecars = match_sidecars(args.srp_sidecar or [], shards.shard_prefixes(args))
    return [
        {"shard": prefix, "split": split, "weight": weight, **_describe(prefix, sidecars.get(prefix))}
        for split, blend in shards.blends(args)
        for weight, prefix in _share(blend)
    ]


def _share(blend: list[tuple[float | None, str]]) -> list[tuple[float | None, str]]:
    if len(blend) == 1:
        return [(1.0, blend[0][1])]
    total = sum(weight or 0.0 for weight, _ in blend)
    return [(round(weight / total, 6) if weight and total else weight, prefix) for weight, prefix in blend]


def _describe(prefix: str, sidecar: str | None) -> dict[str, Any]:
    from megatron_srp.data.shards.sidecar import describe_shard, read_header

    manifest = shards.find_manifest(prefix) or {}
    settings = manifest.get("settings") or {}
    header = read_header(sidecar) if sidecar else None
    made = header["info"] if header else settings
    tokenizer = made["training_tokenizer"] if header else manifest.get("tokenizer") or {}
    content = {} if only_megatron_reads(prefix) else describe_shard(shard_of(prefix))
    return {
        **{file: content.get(file) for file in _CONTENT},
        "tokenizer": tokenizer.get("fingerprint"),
        "eos_id": tokenizer.get("eos_id"),
        "append_eod": settings.get("append_eod"),
        "chat_template": (manifest.get("sft") or {}).get("chat_template"),
        "reflection": (manifest.get("sft") or made).get("reflection"),
        "max_words": made.get("max_words"),
        **({"policy": policy} if (policy := manifest.get("policy") if not header else made.get("policy")) else {}),
        "sidecar": header["fingerprint"] if header else None,
    }


def chat_template_of(data: dict[str, Any]) -> str | None:
    """Which template, "tokenizer" or "plain", wrote the last conversations in `srp_data`; None before any."""
    records = [shard for part in (data, *reversed(data.get("earlier", []))) for shard in part.get("shards", [])]
    return next((name for shard in records if (name := shard.get("chat_template"))), None)


def differences(was: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """How the shards of a run differ from those it was trained on, one phrase each; moved files do not differ."""
    if len(was) != len(now):
        return [f"{_names(was)} there, {_names(now)} here"]
    pairs = zip(was, now, strict=True)
    return [
        f"{Path(here['shard']).name}: {', '.join(found)}" for there, here in pairs if (found := _compare(there, here))
    ]


def _names(records: list[dict[str, Any]]) -> str:
    return ", ".join(Path(record["shard"]).name for record in records) or "no shard"


def _compare(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    was, now = ({**record, **(record["reflection"] or {}), **_policy(record)} for record in (there, here))
    found = [
        f"{name} {_show(was.get(key))} there and {_show(now.get(key))} here"
        for key, name in _COMPARED.items()
        if was.get(key) != now.get(key)
    ]
    if not found and any(was[file] != now[file] for file in _CONTENT if was[file] and now[file]):
        return [f"the content of {Path(there['shard']).name} there and another here"]
    return found


def _policy(record: dict[str, Any]) -> dict[str, Any]:
    described = record.get("policy") or {}
    start = {"start_share": described.get("start_share") or None}
    return {"policy": policy_name(record), **start, "rules": str(described.get("rules", "")) or None}


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "none" if value is None else str(value)[:12]


def continue_data(where: str, saved: argparse.Namespace, args: argparse.Namespace, iteration: int) -> str | None:
    """Compare the data of a resumed run with the checkpoint's, and carry over its record of earlier data.

    Args:
        where, saved, args: as for `lineage.check_lineage`.
        iteration: of the checkpoint.

    Returns:
        A note if the run continues on other data, as `--srp-allow-new-data` allows.

    Raises:
        UsageError: for other data without that flag.
    """
    was, now = getattr(saved, "srp_data", None) or {}, args.srp_data
    now["earlier"] = was.get("earlier", [])
    if "shards" not in was:  # written before they were recorded, or imported
        if was.get("reflection"):
            succeed(saved, args, iteration)
        return None
    found = "; ".join([*differences(was["shards"], now["shards"]), *_sampling_differences(saved, args)])
    if not found:
        return None
    if not args.srp_allow_new_data:
        raise UsageError(
            f"{where} was trained on other data: {found}. Pass its data, or --srp-allow-new-data to continue with "
            "these: the samples consumed so far are then skipped in them"
        )
    succeed(saved, args, iteration)
    return f"{where} was trained on other data, which the checkpoints record: {found}"


def _sampling_differences(saved: argparse.Namespace, args: argparse.Namespace) -> list[str]:
    return [
        f"{flag} {getattr(saved, name)} there and {getattr(args, name, None)} here"
        for name, flag in _SAMPLING.items()
        if hasattr(saved, name) and getattr(saved, name) != getattr(args, name, None)
    ]


def succeed(saved: argparse.Namespace, args: argparse.Namespace, iteration: int) -> None:
    """Record that the checkpoint's data were used until `iteration`, and this run's data from there on."""
    was = dict(getattr(saved, "srp_data", None) or {})
    earlier = was.pop("earlier", [])
    args.srp_data["earlier"] = [*earlier, {"until": iteration, **was}] if was else earlier
