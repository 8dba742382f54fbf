"""`srp train-guard`: a cheap front for a cascade, from the verdicts of a store."""

import argparse
from pathlib import Path

from megatron_srp.cli import corpus_flags
from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.errors import UsageError

DESCRIPTION = """
Train a front for a cascade: a small, cheap guard that learns from the verdicts of an annotation store which texts are
clearly harmless, so that the expensive guard need not read them. A fifth of the documents is held out to measure the
front; the figures are stored in its card. Takes about a minute on two cores.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp train-guard", description=DESCRIPTION, old_names=corpus_flags.OLD_NAMES)
    group = parser.add_argument_group("input")
    group.add_argument("--store", required=True, metavar="DIR", help="the annotation store to learn from")
    corpus_flags.add_corpus_flags(group)
    add = parser.add_argument_group("training").add_argument
    add(
        "--kind",
        choices=["small", "encoder", "static"],
        default="small",
        help="small: a linear model on hashed words and characters; encoder, static: a linear head on the vectors of "
        "an encoder, or of static embeddings",
    )
    add(
        "--model",
        metavar="DIR",
        help="with --kind encoder or static: the encoder or embeddings, a folder or a name on the hub (no default)",
    )
    add("--controversial", choices=["safe", "unsafe"], default="safe", help="count Controversial as this")
    add("--max-segments", type=int, default=200_000, metavar="N", help="maximum segments to learn from, roughly")
    add("--seed", type=int, default=0, metavar="N", help="random seed of the order of the texts")
    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, required=True, metavar="FRONT", help="file to write, for --guard front:FRONT")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, train, print the card's figures."""
    args = build_parser().parse_args(argv)
    require_at_least(1, args, "--max-segments")
    require_at_least(0, args, "--seed")
    key = corpus_flags.one_key(args)
    if (args.kind == "small") == bool(args.model):
        raise UsageError(f"--kind {args.kind} {'has no' if args.model else 'needs a'} --model")

    from megatron_srp.annotation.fronts.card import describe
    from megatron_srp.annotation.fronts.embedders import load_embedder
    from megatron_srp.annotation.fronts.front_file import save_front
    from megatron_srp.annotation.fronts.train import train_front
    from megatron_srp.annotation.store.store import AnnotationStore
    from megatron_srp.corpus.patterns import expand_inputs

    store = AnnotationStore(args.store)
    files = expand_inputs(args.input)
    embedder = None
    if args.kind != "small":
        embedder = (load_embedder(args.kind, args.model), {"kind": args.kind, "model": args.model})
    harmful = "harmful" if args.controversial == "unsafe" else "Unsafe"
    front = train_front(store, files, key, harmful, args.max_segments, args.seed, embedder)
    save_front(front, args.out)
    trained = front.card["trained_on"]
    print(f"trained on: {trained['segments']:,} segments, {trained['harmful']:,} of them harmful")
    print("\n".join(describe(front.card)))
    print(f"wrote {args.out}")
    next_step(f"name it as the front of a cascade, `front: {{guard: front:{args.out}}}`, then srp calibrate")
