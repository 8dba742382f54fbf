"""`srp annotate`: judge every segment of a corpus once."""

import argparse
from math import inf

from megatron_srp.cli import corpus_flags, guard_flags, work_folder
from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.errors import SrpError, UsageError
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words

DESCRIPTION = """
Judge every segment of a corpus once and keep the verdicts in an annotation store, which `srp preprocess --store`
reads. A stopped run resumes when the same command is rerun. Many runs fill one store on a shared file system
when each is given its own --partition-index.
"""


def build_parser() -> argparse.ArgumentParser:
    old_names = corpus_flags.OLD_NAMES | guard_flags.OLD_NAMES | guard_flags.OLD_MODE_NAMES
    parser = Parser(prog="srp annotate", description=DESCRIPTION, old_names=old_names)
    group = parser.add_argument_group("input")
    corpus_flags.add_corpus_flags(group)
    add = group.add_argument
    add("--on-error", choices=["stop", "skip"], default="stop", help=corpus_flags.ON_ERROR_HELP)
    add("--max-words", type=int, default=DEFAULT_MAX_WORDS, metavar="N", help="maximum words per segment")
    guard_flags.add_guard_flags(parser)
    output = parser.add_argument_group("output")
    add = output.add_argument
    add(
        "--store",
        metavar="DIR",
        help="folder of the annotation store, or s3://BUCKET/FOLDER (default: none, which only --estimate allows)",
    )
    work_folder.add_work_dir(output)
    add(
        "--chunk-documents",
        type=int,
        default=20_000,
        metavar="N",
        help="documents per part of the store, the unit of work",
    )
    add("--workers", type=int, metavar="N", help="batches judged at once (default: as many as keep the engine busy)")
    corpus_flags.add_partition_flags(output)
    failed = parser.add_argument_group("segments without a verdict")
    corpus_flags.add_failure_rate(failed, "verdict")
    cost = parser.add_argument_group("cost before the job")
    estimate = "judge nothing but N segments of a sample, and print what the job will cost (N default: 1000)"
    cost.add_argument("--estimate", type=int, nargs="?", const=1000, metavar="N", help=estimate)
    rate = "with --estimate: segments a second of the big guard on one device (default: measured)"
    cost.add_argument("--rate", type=float, metavar="R", help=rate)
    retry = "judge again the segments that got no verdict in an earlier run"
    failed.add_argument("--retry-failed", action="store_true", help=retry)
    return parser


def _validate(args: argparse.Namespace) -> None:
    check_max_words(args.max_words)
    require_at_least(1, args, "--chunk-documents", "--workers", "--estimate")
    corpus_flags.check_failure_rate(args)
    if args.rate is not None and (args.estimate is None or not 0 < args.rate < inf):
        raise UsageError(f"--rate {args.rate:g}: pass segments a second, more than 0, together with --estimate")
    if not args.store and args.estimate is None:
        raise UsageError("--store: pass the folder of the annotation store")


def main(argv: list[str]) -> int:
    """Parse `argv`, run the job, print a report. Returns the exit code."""
    args = build_parser().parse_args(argv)
    _validate(args)
    key = corpus_flags.one_key(args)
    if args.estimate is not None:
        return _estimate(args, key)

    from megatron_srp.annotation.corpus_job.annotator import Annotator
    from megatron_srp.annotation.corpus_job.failures import FailureLog
    from megatron_srp.annotation.corpus_job.report import print_report
    from megatron_srp.annotation.store.store import AnnotationStore
    from megatron_srp.corpus.input_files import InputFiles
    from megatron_srp.terminal.display import ProgressDisplay

    files = InputFiles.from_args(args)
    guard = guard_flags.guard_from_args(args)
    try:
        with work_folder.mirrored_store(args) as folder:
            store = AnnotationStore.create(folder, {**guard.settings, "max_words": args.max_words})
            with ProgressDisplay() as display:
                job = Annotator(
                    files,
                    store,
                    guard,
                    args.max_words,
                    key=key,
                    chunk_documents=args.chunk_documents,
                    skip_errors=args.on_error == "skip",
                    workers=args.workers or guard.preferred_workers,
                    failures=FailureLog(args.max_failure_rate),
                    report=display.update,
                    warn=display.warn,
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
    print(f"wrote {args.store}")
    next_step(f"srp preprocess --store {args.store} --input ... writes the shards with these verdicts")
    return 0


def _estimate(args: argparse.Namespace, key: str) -> int:
    from megatron_srp.annotation.corpus_job.estimate import estimate, sample_beginnings
    from megatron_srp.corpus.input_files import InputFiles

    corpus = sample_beginnings(InputFiles.from_args(args).own, key, args.max_words, args.estimate, args.context_words)
    guard = guard_flags.guard_from_args(args)
    try:
        print("\n".join(estimate(guard, corpus, args.rate).describe()))
    finally:
        guard.close()
    next_step(f"srp annotate --guard {args.guard} --input ... --store DIR does the job")
    return 0
