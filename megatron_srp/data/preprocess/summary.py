"""The summary that a data job prints at the end."""

from pathlib import Path
from typing import Any

from megatron_srp.data.audited_labels import describe_audit
from megatron_srp.data.shards.indexed_shard import bin_path
from megatron_srp.data.shards.manifest import manifest_path
from megatron_srp.data.shards.sidecar import sidecar_path


def print_summary(prefix: str, manifest: dict[str, Any], errors: list[str]) -> None:
    """Counts of the whole run, and the first skipped rows."""
    counts = manifest["counts"]
    added = counts["tokens"] - counts["plain_tokens"]
    change = f"{abs(added) / max(counts['plain_tokens'], 1):.1%} {'more' if added >= 0 else 'fewer'}"
    share = f" ({change})" if counts["plain_tokens"] else ""
    rows = [
        *_judge(manifest["settings"]),
        ("documents", f"{counts['documents']:,}"),
        ("empty, skipped", f"{counts['empty_documents']:,}"),
        ("bad rows, skipped", f"{manifest['skipped_rows']:,}"),
        ("segments", f"{counts['segments']:,}"),
        *((f"  {verdict}", f"{n:,}") for verdict, n in counts["verdicts"].items()),
        *((("  with a hint", f"{counts['hints']:,}"),) if "hints" in counts else ()),
        ("tokens before", f"{counts['plain_tokens']:,}"),
        ("tokens after", f"{counts['tokens']:,}{share}"),
    ]
    for name, value in rows:
        print(f"{name:<20} {value}")
    for error in errors:
        print(f"skipped: {error}")
    for line in describe_audit(manifest):
        print(line)
    print_files(prefix, manifest)
    if manifest["settings"].get("append_eod") is False:
        print("note: documents do not end with an end-of-document token; for pretraining, pass --append-eod")


def _judge(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """The source of the labels: the guard, or the one whose verdicts were joined."""
    guard = settings.get("guard") or (settings.get("annotations") or {}).get("guard")
    return [("guard", str(guard))] if guard else []


def print_sidecars(prefix: str, manifest: dict[str, Any], shards: list[Path]) -> None:
    """The sidecars of a manifest, with their sizes; `shards` are the prefixes of the plain shards."""
    for shard, made in zip(shards, manifest["sidecars"], strict=False):  # no sidecars where the shards are new
        path = sidecar_path(Path(prefix).with_name(made["name"]))
        size, whole = path.stat().st_size, bin_path(shard).stat().st_size
        print(f"wrote {path}, {size:,} bytes, {size / max(whole, 1):.1%} of its shard")


def print_files(prefix: str | Path, manifest: dict[str, Any]) -> None:
    """The names of the files that belong to a manifest, and of the manifest itself."""
    for shard in manifest["shards"]:
        path = Path(prefix).with_name(shard["name"])
        print(
            f"wrote {path}.bin and .idx"
            + (", and .srp (where the reflections are)" if sidecar_path(path).exists() else "")
        )
    print(f"wrote {manifest_path(prefix)}")
