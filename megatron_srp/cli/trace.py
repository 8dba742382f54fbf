"""`srp trace`: which documents a training step read, with their verdicts; and when a document is read."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from megatron_srp.cli.parser import Parser, next_step
from megatron_srp.errors import UsageError

if TYPE_CHECKING:
    from megatron_srp.training.host.trace import Part, Trace

DESCRIPTION = """
List the documents that a step of a run read, with the verdicts of their segments, or the steps that read a document:

  srp trace out/checkpoints --step 120 --sample 3
  srp trace out/checkpoints --document out/w200.srp:41

The answer is exact across blends, shuffles, epochs and resumes: a run records each of its starts in its --save folder,
and Megatron computes the order of the samples. The data and the sidecars must be where the run read them.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp trace", description=DESCRIPTION)
    add = parser.add_argument
    add("run", metavar="RUN", help="the --save folder of the run")
    add("--step", type=int, metavar="N", help="the step, counted from 1 as in the log (no default)")
    add("--sample", type=int, metavar="I", help="only this sample of the step, counted from 0 (default: all)")
    add(
        "--document",
        metavar="PATH:N",
        help="instead of --step: document N, counted from 0, of one of the run's data paths (no default)",
    )
    add("--json", action="store_true", help="print one JSON object per line")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, and print."""
    args = build_parser().parse_args(argv)
    if (args.step is None) == (args.document is None):
        raise UsageError("srp trace: pass --step N, or --document PATH:N")

    from pathlib import Path

    from megatron_srp.training.host.readings import load_readings
    from megatron_srp.training.process.surroundings import ignore_missing_cuda_extensions

    readings = load_readings(Path(args.run))
    ignore_missing_cuda_extensions()
    from megatron_srp.training.host.trace import Trace

    trace = Trace(readings)
    found = _of_document(trace, args.document) if args.document else _of_step(trace, args.step, args.sample)
    printed = False
    for record, line in found:
        print(json.dumps(record) if args.json else line)
        printed = True
    if not printed:
        print(f"{args.document}: in no step of the run", file=sys.stderr)
        return
    if args.document:
        next_step(f"srp trace {args.run} --step N lists what else a step read", to_stderr=True)
    else:
        next_step(f"srp trace {args.run} --document PATH:N lists the steps that read a document", to_stderr=True)


def _of_step(trace: "Trace", step: int, sample: int | None) -> Iterator[tuple[dict[str, Any], str]]:
    for number in range(trace.batch_size(step)) if sample is None else [sample]:
        for part in trace.parts(step, number):
            yield {"step": step, "sample": number, **_record(part)}, f"step {step} sample {number}: {_describe(part)}"


def _record(part: "Part") -> dict[str, Any]:
    return {
        "path": part.path,
        "document": part.sequence,
        "source": None if part.source is None else {"file": part.source[0], "row": part.source[1]},
        "tokens": [part.begin, part.end],
        "segments": None if part.segments is None else [*part.segments],
        "verdicts": [*part.verdicts],
    }


def _describe(part: "Part") -> str:
    source = f" ({part.source[0]} row {part.source[1]})" if part.source else ""
    place = f"{part.path} document {part.sequence}{source}, tokens {part.begin} to {part.end - 1}"
    if not part.segments:
        return place
    segments = ", ".join(f"{k} {verdict}" for k, verdict in zip(part.segments, part.verdicts, strict=True))
    return f"{place}, segments {segments}"


def _of_document(trace: "Trace", document: str) -> Iterator[tuple[dict[str, Any], str]]:
    path, _, number = document.rpartition(":")
    if not path or not number.isdigit():
        raise UsageError(f"--document {document}: pass a data path of the run and a number, such as out/w200.srp:41")
    for use in trace.uses(path, int(number)):
        record = {"step": use.step, "sample": use.sample, "tokens": [use.begin, use.end]}
        yield record, f"step {use.step} sample {use.sample}: tokens {use.begin} to {use.end - 1}"
