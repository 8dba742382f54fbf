"""The flags that name a corpus, for the commands that read its texts."""

import argparse

from megatron_srp.errors import UsageError

# `tokenization.TYPES`, which imports numpy.
TOKENIZER_TYPES = ("HuggingFaceTokenizer", "SentencePieceTokenizer", "GPTSentencePieceTokenizer", "Llama2Tokenizer")
OLD_NAMES = {"--json-key": "--json-keys"}
INPUT_HELP = (
    "files (JSONL or Parquet, compressed or not), folders with all such files below them, or quoted patterns such as "
    "'corpus/**/*.parquet', where ** matches any folders"
)
EOD_HELP = (
    "the token that ends documents and follows unsafe verdicts, such as '<|endoftext|>'; the same for pretraining and "
    "post-training (default: the tokenizer's eos"
)
ON_ERROR_HELP = "at a malformed row: stop, or skip and count it"


def add_corpus_flags(add: "argparse._ActionsContainer", input_help: str = INPUT_HELP, required: bool = True) -> None:
    """`--input` and the one key of the texts that an annotation store is about."""
    add.add_argument("--input", nargs="+", required=required, metavar="FILE", help=input_help)
    add.add_argument("--json-keys", nargs="+", default=["text"], metavar="KEY", help="key or column of the text")


def add_partition_flags(add: "argparse._ActionsContainer") -> None:
    """`--num-partitions` and `--partition-index`, which divide the input files among runs."""
    add.add_argument("--num-partitions", type=int, default=1, metavar="N", help="divide the input files among N runs")
    add.add_argument("--partition-index", type=int, default=0, metavar="I", help="this run's partition, 0 to N-1")


def add_failure_rate(add: "argparse._ActionsContainer", missing: str) -> None:
    """`--max-failure-rate`, for a job that asks a model about every segment."""
    add.add_argument(
        "--max-failure-rate",
        type=float,
        default=0.001,
        metavar="SHARE",
        help=f"stop when more than this share of the segments get no {missing}",
    )


def check_failure_rate(args: argparse.Namespace) -> None:
    """Raise UsageError unless it is a share."""
    if not 0 <= args.max_failure_rate <= 1:
        raise UsageError(f"--max-failure-rate {args.max_failure_rate:g}: pass a share from 0 to 1")


def one_key(args: argparse.Namespace) -> str:
    """The key of `--json-keys`; raises UsageError unless it is one, and can name a folder."""
    if len(args.json_keys) != 1:
        raise UsageError("--json-keys: a store holds the verdicts of one key at a time; pass one key per run")
    (key,) = args.json_keys
    if "/" in key or not key:
        raise UsageError(f"--json-keys {key!r}: names a folder of the store, so it can be neither empty nor contain /")
    return key
