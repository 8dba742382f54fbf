"""What a data job prints when it has ended."""

from pathlib import Path
from typing import Any


def print_summary(prefix: str, manifest: dict[str, Any], errors: list[str]) -> None:
    """Counts of the whole run, and the first of the rows that were left out."""
    counts = manifest["counts"]
    added = counts["tokens"] - counts["plain_tokens"]
    share = f" ({added / counts['plain_tokens']:.1%} more)" if counts["plain_tokens"] else ""
    rows = [
        ("documents", f"{counts['documents']:,}"),
        ("empty, left out", f"{counts['empty_documents']:,}"),
        ("bad rows, left out", f"{manifest['skipped_rows']:,}"),
        ("segments", f"{counts['segments']:,}"),
        *((f"  {verdict}", f"{n:,}") for verdict, n in counts["verdicts"].items()),
        *((("  with a hint", f"{counts['hints']:,}"),) if "hints" in counts else ()),
        ("tokens before", f"{counts['plain_tokens']:,}"),
        ("tokens after", f"{counts['tokens']:,}{share}"),
    ]
    for name, value in rows:
        print(f"{name:<20} {value}")
    for error in errors:
        print(f"left out: {error}")
    for shard in manifest["shards"]:
        print(f"wrote {Path(prefix).with_name(shard['name'])}.bin and .idx")
