"""The command line of tools/annotate.py. Heavy imports wait until flags are parsed."""

import argparse
from pathlib import Path

from megatron_srp.cli.guard_flags import add_guard_arguments, guard_from_args
from megatron_srp.corpus.partitions import Partition
from megatron_srp.errors import CommandParser, SrpError, UsageError
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words

DESCRIPTION = """
Judge every segment of a corpus once, and keep the verdicts in an annotation store, which
preprocess_with_reflections.py --annotations reads. Stopped runs go on where they were when the same
command is given again. Many runs fill one store on a shared file system when each is given its own
--partition-index.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="annotate.py", description=DESCRIPTION)
    add = parser.add_argument_group("input").add_argument
    add("--input", nargs="+", required=True, metavar="FILE", help="files or quoted patterns")
    add("--json-key", default="text", metavar="KEY", help="key or column of the text (default: text)")
    add("--on-error", choices=["stop", "skip"], default="stop", help="at a row that is no document")
    add(
        "--max-words",
        type=int,
        default=DEFAULT_MAX_WORDS,
        metavar="N",
        help="words in a segment at most (default: %(default)s)",
    )
    add_guard_arguments(parser)
    add = parser.add_argument_group("output").add_argument
    add("--store", required=True, metavar="DIR", help="folder of the annotation store")
    add(
        "--chunk-documents",
        type=int,
        default=20_000,
        metavar="N",
        help="documents in a part of the store, the unit of work (default: %(default)s)",
    )
    add("--workers", type=int, metavar="N", help="batches judged at once (default: as many as keep the engine busy)")
    add("--num-partitions", type=int, default=1, metavar="N", help="share the input files out among N runs")
    add("--partition-index", type=int, default=0, metavar="I", help="which share is this run's, from 0")
    add = parser.add_argument_group("segments without a verdict").add_argument
    add(
        "--max-failure-rate",
        type=float,
        default=0.001,
        metavar="RATE",
        help="stop when more of the segments get none (default: %(default)s)",
    )
    add("--retry-failed", action="store_true", help="judge again what got none in an earlier run")
    return parser


def _validate(args: argparse.Namespace) -> None:
    check_max_words(args.max_words)
    for flag in ("chunk_documents", "workers"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {getattr(args, flag)}: give a number of at least 1")
    if not 0 <= args.max_failure_rate <= 1:
        raise UsageError(f"--max-failure-rate {args.max_failure_rate:g}: give a share from 0 to 1")
    if not args.store:
        raise UsageError("--store '': give the folder of the annotation store")
    if "/" in args.json_key or not args.json_key:
        raise UsageError(
            f"--json-key {args.json_key!r}: names a folder of the store, so it can be neither empty nor contain /"
        )


def main(argv: list[str]) -> int:
    """Parse `argv`, run the job, print a report. Returns the exit code."""
    args = build_parser().parse_args(argv)
    _validate(args)
    partition = Partition(args.partition_index, args.num_partitions)

    from megatron_srp.annotation.corpus_job.annotator import Annotator
    from megatron_srp.annotation.corpus_job.failures import FailureLog
    from megatron_srp.annotation.corpus_job.report import print_report
    from megatron_srp.annotation.store.store import AnnotationStore
    from megatron_srp.corpus.readers import expand_inputs
    from megatron_srp.terminal.display import ProgressDisplay

    files = expand_inputs(args.input)
    guard = guard_from_args(args)
    try:
        store = AnnotationStore.create(Path(args.store), {**guard.settings, "max_words": args.max_words})
        with ProgressDisplay() as display:
            job = Annotator(
                files,
                store,
                guard,
                args.max_words,
                args.json_key,
                args.chunk_documents,
                args.on_error == "skip",
                args.workers or getattr(getattr(guard, "engine", None), "callers", 1),
                partition,
                FailureLog(args.max_failure_rate),
                display.update,
                display.warn,
            )
            try:
                job.run(args.retry_failed)
            except SrpError:
                if job.progress.documents:
                    print_report(job)
                raise
        print_report(job)
    finally:
        guard.close()
    print(f"wrote {store.folder}")
    return 0
