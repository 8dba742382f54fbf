"""The command line of tools/write_hints.py. Heavy imports wait until flags are parsed."""

import argparse

from megatron_srp.corpus.partitions import Partition
from megatron_srp.errors import CommandParser, UsageError

DESCRIPTION = """
Ask a chat model for a hint of at most 15 words from each Safe segment to the next (SRP-Hint), and keep the
hints beside the verdicts of an annotation store. Stopped runs go on where they were when the same command
is given again. The API key, if one is needed, comes from SRP_API_KEY or OPENAI_API_KEY.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="write_hints.py", description=DESCRIPTION)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="FILE", help="the files that were annotated")
    add("--json-key", default="text", metavar="KEY", help="key or column of the text (default: text)")
    add("--store", required=True, metavar="DIR", help="folder of the annotation store")
    add("--endpoint", required=True, metavar="URL", help="OpenAI-compatible, up to and with the /v1")
    add("--model", required=True, metavar="NAME", help="the name under which the endpoint has the model")
    add("--max-tokens", type=int, default=256, metavar="N", help="of a reply; more for a model that thinks aloud")
    add("--concurrency", type=int, default=64, metavar="N", help="requests at once (default: %(default)s)")
    add("--num-partitions", type=int, default=1, metavar="N", help="share the input files out among N runs")
    add("--partition-index", type=int, default=0, metavar="I", help="which share is this run's, from 0")
    add("--max-failure-rate", type=float, default=0.001, metavar="RATE", help="stop when more get no reply")
    return parser


def _validate(args: argparse.Namespace) -> None:
    for flag in ("max_tokens", "concurrency"):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {getattr(args, flag)}: give a number of at least 1")
    if not 0 <= args.max_failure_rate <= 1:
        raise UsageError(f"--max-failure-rate {args.max_failure_rate:g}: give a share from 0 to 1")


def main(argv: list[str]) -> int:
    """Parse `argv`, write hints, print what became of the replies. Returns the exit code."""
    args = build_parser().parse_args(argv)
    _validate(args)
    partition = Partition(args.partition_index, args.num_partitions)

    from megatron_srp.annotation.corpus_job.write_hints import HintJob
    from megatron_srp.annotation.engines.http_client import EndpointClient
    from megatron_srp.annotation.engines.http_retry import Limits
    from megatron_srp.annotation.store.hints import HintWriter
    from megatron_srp.annotation.store.store import AnnotationStore
    from megatron_srp.corpus.readers import expand_inputs

    files = expand_inputs(args.input)
    store = AnnotationStore(args.store)
    client = EndpointClient(args.endpoint, Limits(args.concurrency))
    job = HintJob(
        files, store, HintWriter(client, args.model, args.max_tokens), args.json_key, partition, args.max_failure_rate
    )
    try:
        job.run()
    finally:
        client.close()
        for name, count in sorted((job.counts + client.incidents).items()):
            print(f"{name:<32} {count:,}")
    print(f"wrote {store.folder}/hints")
    return 0
