"""`srp hints`: hints from a chat model, for SRP-Hint."""

import argparse

from megatron_srp.cli import corpus_flags, work_folder
from megatron_srp.cli.parser import Parser, next_step, require_at_least

DESCRIPTION = """
Ask a chat model for a hint of at most 15 words from each Safe segment to the next (SRP-Hint), and keep the hints with
the verdicts of an annotation store. A stopped run resumes when the same command is rerun. The API key, if one
is needed, comes from SRP_API_KEY or OPENAI_API_KEY.
"""
OLD_NAMES = {"--concurrency": "--workers"}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp hints", description=DESCRIPTION, old_names=corpus_flags.OLD_NAMES | OLD_NAMES)
    group = parser.add_argument_group("input and output")
    corpus_flags.add_corpus_flags(group, "the annotated files, under the names that they had then")
    add = group.add_argument
    add(
        "--store",
        required=True,
        metavar="DIR",
        help="folder of the annotation store, or s3://BUCKET/FOLDER, to which the hints are added",
    )
    work_folder.add_work_dir(group)
    corpus_flags.add_partition_flags(group)
    chat = parser.add_argument_group("chat model")
    add = chat.add_argument
    add("--endpoint", required=True, metavar="URL", help="OpenAI-compatible base URL including /v1")
    add("--model", required=True, metavar="NAME", help="the model's name at the endpoint")
    add(
        "--max-tokens",
        type=int,
        default=256,
        metavar="N",
        help="maximum tokens per reply; raise it for reasoning models",
    )
    add("--workers", type=int, default=64, metavar="N", help="requests in flight")
    corpus_flags.add_failure_rate(chat, "reply")
    return parser


def _validate(args: argparse.Namespace) -> None:
    require_at_least(1, args, "--max-tokens", "--workers")
    corpus_flags.check_failure_rate(args)


def main(argv: list[str]) -> int:
    """Parse `argv`, write hints, print the counts of replies. Returns the exit code."""
    args = build_parser().parse_args(argv)
    _validate(args)
    key = corpus_flags.one_key(args)

    from megatron_srp.annotation.corpus_job.write_hints import HintJob
    from megatron_srp.annotation.engines.http_client import EndpointClient
    from megatron_srp.annotation.engines.http_retry import Limits
    from megatron_srp.annotation.store.hints import HintWriter
    from megatron_srp.annotation.store.store import AnnotationStore
    from megatron_srp.corpus.input_files import InputFiles

    files = InputFiles.from_args(args)
    with work_folder.mirrored_store(args) as folder:
        store = AnnotationStore(folder)
        client = EndpointClient(args.endpoint, Limits(args.workers))
        writer = HintWriter(client, args.model, args.max_tokens)
        job = HintJob(files, store, writer, key, args.max_failure_rate)
        try:
            job.run()
        finally:
            client.close()
            for name, count in sorted((job.counts + client.incidents).items()):
                print(f"{name:<32} {count:,}")
    print(f"wrote {args.store}/hints")
    next_step(f"srp preprocess --store {args.store} --hints --input ... writes the shards with these hints")
    return 0
