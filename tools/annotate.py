#!/usr/bin/env python3
"""Judge every segment of a corpus once, and keep the verdicts in an annotation store."""

import argparse
import sys
from pathlib import Path

from megatron_srp.errors import run_command
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--input", nargs="+", required=True, metavar="FILE", help="files or quoted patterns")
    parser.add_argument("--json-key", default="text", metavar="KEY", help="key or column of the text (default: text)")
    parser.add_argument("--guard", required=True, metavar="NAME", help="who judges: heuristic (for demos and tests)")
    parser.add_argument(
        "--max-words", type=int, default=DEFAULT_MAX_WORDS, metavar="N", help="words in a segment at most"
    )
    parser.add_argument("--store", required=True, metavar="DIR", help="folder of the annotation store")
    parser.add_argument(
        "--chunk-documents", type=int, default=20_000, metavar="N", help="documents in a part of the store"
    )
    parser.add_argument("--on-error", choices=["stop", "skip"], default="stop", help="at a row that is no document")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    check_max_words(args.max_words)

    from megatron_srp.annotation import load_guard
    from megatron_srp.annotation.store import AnnotationStore
    from megatron_srp.corpus.readers import expand_inputs
    from megatron_srp.data.annotate import Annotator

    guard = load_guard(args.guard)
    settings = {"guard": guard.name, "revision": guard.revision, "max_words": args.max_words}
    files = expand_inputs(args.input)
    store = AnnotationStore.create(Path(args.store), settings)
    job = Annotator(files, store, guard, args.max_words, args.json_key, args.chunk_documents, args.on_error == "skip")
    job.run()
    for name, count in job.counts.items():
        print(f"{name:<14} {count:,}")
    for error in job.errors[:10]:
        print(f"left out: {error}")
    print(f"wrote {store.folder}")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
