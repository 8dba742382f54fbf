"""`srp calibrate`: choose the threshold of a cascade."""

import argparse
from pathlib import Path

from megatron_srp.cli import corpus_flags
from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.errors import UsageError
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words

DESCRIPTION = """
Choose the threshold of a cascade. Both of its guards judge a random sample of the corpus; the cheap one, the front,
then decides alone on as many segments as the target in the cascade's file allows. The threshold is written to
FILE.calibration.json, next to the cascade's file.
"""
_PREFIX = "cascade:"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp calibrate", description=DESCRIPTION, old_names=corpus_flags.OLD_NAMES)
    group = parser.add_argument_group("input")
    corpus_flags.add_corpus_flags(group)
    group.add_argument(
        "--max-words", type=int, default=DEFAULT_MAX_WORDS, metavar="N", help="maximum words per segment"
    )
    add = parser.add_argument_group("calibration").add_argument
    add("--guard", required=True, metavar="cascade:FILE.yaml", help="the cascade to calibrate")
    add("--sample", type=int, default=20_000, metavar="N", help="segments in the sample")
    add("--seed", type=int, default=0, metavar="N", help="random seed of the sample")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, calibrate, print what was chosen."""
    args = build_parser().parse_args(argv)
    check_max_words(args.max_words)
    require_at_least(1, args, "--sample")
    require_at_least(0, args, "--seed")
    if not args.guard.startswith(_PREFIX):
        raise UsageError(f"--guard {args.guard}: pass {_PREFIX}FILE.yaml; only a cascade is calibrated")
    key = corpus_flags.one_key(args)

    from megatron_srp.annotation import load_guard
    from megatron_srp.annotation.cascade.calibrate import calibrate, describe, judge_sample
    from megatron_srp.annotation.cascade.sample import sample_segments
    from megatron_srp.annotation.cascade.spec import CascadeSpec, write_calibration
    from megatron_srp.corpus.patterns import expand_inputs

    spec = CascadeSpec.load(Path(args.guard.removeprefix(_PREFIX)))
    sample = sample_segments(expand_inputs(args.input), key, args.max_words, args.sample, args.seed)
    front, back = spec.load_guards(load_guard)
    try:
        judged = judge_sample(front, back, sample.texts, spec.target)
        choice = calibrate(judged, spec.target)
        path = write_calibration(spec, choice, front, back, args.max_words)
    finally:
        front.close()
        back.close()
    print(f"corpus: {sample.seen:,} segments")
    print("\n".join(describe(choice, judged, spec.target)))
    print(f"wrote {path}")
    next_step(f"srp annotate --guard {args.guard} --input ... --store ... judges the corpus with it")
