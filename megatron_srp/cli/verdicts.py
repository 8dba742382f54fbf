"""`srp verdicts`: the verdicts of an annotation store, listed, shown with their text, and changed by hand."""

import argparse
from itertools import islice
from typing import TYPE_CHECKING

from megatron_srp.cli import work_folder
from megatron_srp.cli.parser import Parser, next_step
from megatron_srp.errors import UsageError
from megatron_srp.schema import SafetyLabel, Verdict

if TYPE_CHECKING:
    from megatron_srp.annotation.store.browse import Corpus, StoredVerdict
    from megatron_srp.annotation.store.store import AnnotationStore

DESCRIPTION = """
List, show and change the verdicts of an annotation store. With --input their texts are shown too; a store holds
no text. Rows and segments are counted from 1. A change is recorded in the store, with who made it and when; the
manifests of shards made from it state that there are changes.
"""
_SHOWN = 100  # characters of a text in a list


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp verdicts", description=DESCRIPTION)
    parser.add_argument("store", metavar="STORE", help="folder of the annotation store, or s3://BUCKET/FOLDER")
    work_folder.add_work_dir(parser)
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|set", help="what to do (required)")
    listing = actions.add_parser("list", help="one line for each verdict", description="List verdicts, one per line.")
    _add_place(listing, row_required=False)
    add = listing.add_argument
    add(
        "--verdict",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these: Safe, Controversial, Unsafe, or none for segments that got no verdict (default: all)",
    )
    add("--limit", type=int, default=20, metavar="N", help="maximum verdicts to list; 0 for all (default: %(default)s)")
    add("--edits", action="store_true", help="list the changes made by hand instead (default: off)")
    shown = "a document's verdicts with their whole texts"
    _add_place(actions.add_parser("show", help=shown, description=f"Print {shown}."), row_required=True)
    changing = actions.add_parser("set", help="change one verdict", description="Change one verdict, and record it.")
    _add_place(changing, row_required=True)
    add = changing.add_argument
    add("--segment", type=int, required=True, metavar="N", help="the segment of the row, from 1")
    add("--verdict", required=True, metavar="NAME", help="Safe, Controversial or Unsafe")
    add("--categories", nargs="+", default=[], metavar="NAME", help="the categories of harm (default: none)")
    add("--reason", default="", metavar="TEXT", help="why, for the record (default: none)")
    add("--who", metavar="NAME", help="who changes it, for the record (default: the user who is logged in)")
    return parser


def _add_place(parser: argparse.ArgumentParser, row_required: bool) -> None:
    parser.add_argument(
        "--input",
        nargs="+",
        default=[],
        metavar="FILE",
        help="input files, to show their texts (default: all files of the store, without texts)",
    )
    parser.add_argument(
        "--json-keys", metavar="KEY", help="key or column of the texts (default: every key in the store)"
    )
    row = "the row, from 1" if row_required else "only this row, from 1 (default: all)"
    parser.add_argument("--row", type=int, required=row_required, metavar="N", help=row)


def main(argv: list[str]) -> int:
    """Parse `argv`, list, show or change verdicts. Returns the exit code."""
    args = build_parser().parse_args(argv)
    if args.row is not None and args.row < 1:
        raise UsageError(f"--row {args.row}: rows are counted from 1")

    from megatron_srp.annotation.store.browse import find_corpora
    from megatron_srp.annotation.store.store import AnnotationStore
    from megatron_srp.corpus.patterns import expand_inputs

    with work_folder.mirrored_store(args) as folder:
        store = AnnotationStore(folder)
        if args.action == "list" and args.edits:
            _print_edits(store, args.store)
            return 0
        corpora = find_corpora(store, expand_inputs(args.input) if args.input else [], args.json_keys)
        if args.action == "list":
            _list(args, corpora)
        elif args.action == "show":
            _show(args, _only(corpora))
        else:
            _set(args, _only(corpora))
    return 0


def _only(corpora: list["Corpus"]) -> "Corpus":
    if len(corpora) > 1:
        names = ", ".join(f"{corpus.name} ({corpus.key})" for corpus in corpora[:5])
        raise UsageError(f"which file? Pass one --input FILE, and --json-keys KEY where there are several: {names}")
    return corpora[0]


def _list(args: argparse.Namespace, corpora: list["Corpus"]) -> None:
    from megatron_srp.annotation.store.browse import read_verdicts

    verdicts = [None if name.lower() == "none" else Verdict.from_name(name) for name in args.verdict]
    row = None if args.row is None else args.row - 1
    found = (verdict for corpus in corpora for verdict in read_verdicts(corpus, verdicts, row))
    for verdict in islice(found, args.limit or None):
        print(verdict.describe())
        if verdict.text is not None:
            print(f"    {_one_line(verdict)}")
    if next(found, None):
        print(f"more than {args.limit}; --limit 0 lists all")
    next_step(
        f"srp verdicts {args.store} show --input FILE --row N prints a document with its verdicts", to_stderr=True
    )


def _one_line(verdict: "StoredVerdict") -> str:
    text = " ".join((verdict.text or "").split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _show(args: argparse.Namespace, corpus: "Corpus") -> None:
    from megatron_srp.annotation.store.browse import read_verdicts

    found = list(read_verdicts(corpus, row=args.row - 1))
    if not found:
        raise UsageError(f"{corpus.name}: {corpus.store.folder} has no verdicts for row {args.row}")
    for verdict in found:
        print(verdict.describe())
        if verdict.text is not None:
            print(verdict.text.strip(), end="\n\n")
    file = f" --input {corpus.file}" if corpus.file else ""
    next_step(
        f"srp verdicts {args.store} set{file} --row {args.row} --segment N --verdict NAME changes one", to_stderr=True
    )


def _set(args: argparse.Namespace, corpus: "Corpus") -> None:
    from megatron_srp.annotation.store.edit import describe_edit, set_verdict

    try:
        label = SafetyLabel(Verdict.from_name(args.verdict), tuple(args.categories))
    except ValueError as error:
        raise UsageError(f"--categories: {error}") from None
    print(describe_edit(set_verdict(corpus, args.row - 1, args.segment - 1, label, args.reason, args.who)))
    next_step(_again(args.store))


def _print_edits(store: "AnnotationStore", folder: str) -> None:
    from megatron_srp.annotation.store.edit import describe_edit

    for edit in store.edits:
        print(describe_edit(edit))
    print(f"changed by hand: {len(store.edits):,}")
    next_step(_again(folder), to_stderr=True)


def _again(folder: str) -> str:
    return f"srp preprocess --store {folder} --overwrite ... makes its shards again"
