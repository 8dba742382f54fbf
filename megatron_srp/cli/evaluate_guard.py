"""`srp evaluate-guard`: a guard measured on labelled texts, or on a corpus whose cuts move."""

import argparse
import json
from pathlib import Path

from megatron_srp.cli import corpus_flags, guard_flags
from megatron_srp.cli.parser import Parser, next_step, require_at_least
from megatron_srp.errors import UsageError
from megatron_srp.segmentation import DEFAULT_MAX_WORDS, check_max_words

DESCRIPTION = """
Evaluate a guard on labelled texts: accuracy on safe and unsafe texts, confusion matrix, calibration, thresholds. With
--cuts, evaluate it on a corpus: how often its verdict on a segment changes when the segment is cut elsewhere, or when
the guard is shown the text before it.
"""


def build_parser() -> argparse.ArgumentParser:
    old_names = guard_flags.OLD_NAMES | guard_flags.OLD_MODE_NAMES
    parser = Parser(prog="srp evaluate-guard", description=DESCRIPTION, old_names=old_names)
    add = parser.add_argument_group("data").add_argument
    add(
        "--dataset",
        nargs="+",
        metavar="FORMAT:PATH",
        help="xstest, advbench, harmbench, alpaca or gsm8k; or csv, json or jsonl with the columns below (no default)",
    )
    add("--text-column", metavar="NAME", help="for csv, json and jsonl: the column of the text (no default)")
    add("--label-column", metavar="NAME", help="the column of the label, safe or unsafe (no default)")
    add("--label", choices=["safe", "unsafe"], help="instead of --label-column: the label of all texts (no default)")
    add("--category-column", metavar="NAME", help="column of sub-categories, for the confusion matrix (default: none)")
    add = parser.add_argument_group("measures").add_argument
    add("--controversial", choices=["safe", "unsafe"], default="unsafe", help="count Controversial as this")
    add("--agreement", action="store_true", help="also compare the one-pass verdicts with answers generated in full")
    add("--json", type=Path, metavar="FILE", help="write all figures to FILE too (default: print only)")
    group = parser.add_argument_group("cuts, instead of labelled texts")
    add = group.add_argument
    add(
        "--cuts",
        action="store_true",
        help="measure how often a verdict changes when cuts move, or with --context-words",
    )
    corpus_flags.add_corpus_flags(group, f"{corpus_flags.INPUT_HELP} (no default)", required=False)
    add("--max-words", type=int, default=DEFAULT_MAX_WORDS, metavar="N", help="maximum words per segment")
    add(
        "--sample",
        type=int,
        default=2000,
        metavar="N",
        help="documents to sample; one random segment of each is judged",
    )
    add("--seed", type=int, default=0, metavar="N", help="random seed of the sample")
    guard_flags.add_guard_flags(parser)
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, evaluate, print the figures."""
    args = build_parser().parse_args(argv)
    _validate(args)
    if args.cuts:
        _cuts(args)
    else:
        _datasets(args)
    next_step(f"srp annotate --guard {args.guard} ... judges a corpus with it, from --guard-threshold on")


def _validate(args: argparse.Namespace) -> None:
    if bool(args.cuts) != bool(args.input) or bool(args.cuts) == bool(args.dataset):
        raise UsageError("pass either --dataset FORMAT:PATH, or --cuts with the corpus as --input FILE")
    if args.cuts and args.agreement:
        raise UsageError("--agreement compares answers on --dataset; leave it out with --cuts")
    if args.context_words and not args.cuts:
        raise UsageError("--context-words: labelled texts have no text before them; pass --cuts, or leave it out")
    if args.text_column and bool(args.label_column) == bool(args.label):
        raise UsageError("--text-column needs one of --label-column NAME and --label safe|unsafe")
    check_max_words(args.max_words)
    require_at_least(1, args, "--sample")
    require_at_least(0, args, "--seed")


def _cuts(args: argparse.Namespace) -> None:
    from megatron_srp.annotation.guard_evaluation.cuts import cuts_to_text, evaluate_cuts, sample_places
    from megatron_srp.corpus.patterns import expand_inputs

    key = corpus_flags.one_key(args)
    places = sample_places(expand_inputs(args.input), key, args.max_words, args.sample, args.seed)
    guard = guard_flags.guard_from_args(args)
    try:
        found = evaluate_cuts(guard, places, args.max_words)
    finally:
        guard.close()
    print(cuts_to_text(found))
    if args.json:
        args.json.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
        print(f"wrote {args.json}")


def _datasets(args: argparse.Namespace) -> None:
    from megatron_srp.annotation.guard_evaluation.datasets import Columns, load_dataset
    from megatron_srp.annotation.guard_evaluation.evaluate import evaluate, write_json
    from megatron_srp.annotation.guard_evaluation.summary_text import to_text

    columns = None
    if args.text_column:
        columns = Columns(args.text_column, args.label_column, args.category_column, args.label)
    datasets = {name: load_dataset(name, columns) for name in args.dataset}
    guard = guard_flags.guard_from_args(args)
    found = evaluate(guard, datasets, args.controversial, with_agreement=args.agreement)
    guard.close()
    print(to_text(found))
    if args.json:
        write_json(found, args.json)
        print(f"wrote {args.json}")
