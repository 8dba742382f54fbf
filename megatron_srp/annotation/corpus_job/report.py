"""The report of an annotation run."""

from collections import Counter

from megatron_srp.annotation.cascade.watch import watches
from megatron_srp.annotation.corpus_job.annotator import Annotator

_SHOWN = 10


def print_report(job: Annotator) -> None:
    """Counts of this run, segments without a verdict and why, and what is left to do in the store."""
    progress, failures = job.progress, job.failures
    parts = job.summaries()
    earlier = sum(part.end - part.first for part in parts) - progress.documents - progress.skipped
    engine = getattr(job.guard, "engine", None)
    incidents = job.guard.incidents + (engine.incidents if engine else Counter())
    rows = [
        *([("rows of earlier runs", earlier)] if earlier > 0 else []),
        ("documents", progress.documents),
        ("bad rows, skipped", len(job.errors)),
        ("segments", progress.segments),
        *((f"  {verdict}", count) for verdict, count in sorted(progress.verdicts.items())),
        ("  no verdict", failures.failed),
        *((f"  {what}", count) for what, count in sorted(incidents.items())),
    ]
    for name, count in rows:
        print(f"{name:<24} {count:,}")
    for error in job.errors[:_SHOWN]:
        print(f"skipped: {error}")
    for example in failures.examples:
        print(f"no verdict: {example}")
    for watch in watches(job.guard):
        print("\n".join(watch.describe()))
    waiting = sum(part.failed for part in parts)
    if waiting:
        print(f"{waiting:,} segments of these files have no verdict in the store; retry them with --retry-failed")
