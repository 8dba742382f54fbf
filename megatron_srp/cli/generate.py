"""`srp generate`: guarded answers to a file of prompts, or a conversation in the terminal."""

import argparse
import sys
from pathlib import Path

from megatron_srp.cli import generation_flags
from megatron_srp.cli.parser import Parser, next_step
from megatron_srp.errors import UsageError

DESCRIPTION = """
Answer the prompts of a JSONL file (--input, --out), or chat in the terminal, with a guard that hides reflections and
acts on them. Answers are written to OUT.partial as they are finished, and a stopped run resumes from there.
"""


def build_parser() -> argparse.ArgumentParser:
    old_names = generation_flags.OLD_NAMES | {"--output": "--out"}
    parser = Parser(prog="srp generate", description=DESCRIPTION, old_names=old_names)
    group = parser.add_argument_group("prompts and answers")
    add = group.add_argument
    add(
        "--input",
        type=Path,
        metavar="FILE",
        help="JSONL with `prompt` or `messages` in each line (default: chat in the terminal)",
    )
    add("--out", type=Path, metavar="FILE", help="JSONL to write: the lines of --input with answers (no default)")
    add("--chat", action="store_true", help="put each `prompt` into the chat template as a user's turn")
    generation_flags.add_batch_flags(group)
    add("--prefill", default="", metavar="TEXT", help="begin every answer with this text (default: none)")
    add("--seed", type=int, default=0, metavar="N", help="random seed for sampling (default: 0)")
    generation_flags.add_generation_flags(parser)
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, and answer."""
    args = build_parser().parse_args(argv)
    if bool(args.input) != bool(args.out):
        raise UsageError("--input and --out go together; pass both, or neither for a chat")
    if args.chat and not args.input:
        raise UsageError("--chat is for the prompts of --input; without --input it is a chat anyway, leave it out")
    limits = generation_flags.limits_from_args(args)
    settings = generation_flags.settings_from_args(args, args.model)
    options = generation_flags.options_from_args(args, settings)
    if not args.input:
        from megatron_srp.generation.chat import converse

        converse(generation_flags.load_from_args(args, settings), options, args.prefill)
        return

    from megatron_srp.generation.prompts_file import answer_prompts, raw_prompts_note, read_prompts

    records = list(read_prompts(args.input, args.chat))
    model = generation_flags.load_from_args(args, settings)
    decides = {"model": _identity(args.model), "dtype": args.dtype, "engine": args.engine}
    if args.prompt_verdicts_by:
        threshold = generation_flags.prompt_threshold_from_args(args, settings)
        decides["prompt_verdicts_by"] = [_identity(args.prompt_verdicts_by), threshold]
    if note := raw_prompts_note(model, records):
        print(note, file=sys.stderr)
    reasons = answer_prompts(model, records, options, args.out, limits, args.prefill, decides)
    print(
        f"{len(records)} answers in {args.out}: {', '.join(f'{n} {reason}' for reason, n in sorted(reasons.items()))}"
    )
    if args.reflect_every and args.on_unsafe == "off":
        next_step("srp threshold --model DIR --benign FILE --harmful FILE measures the threshold with such answers")
    else:
        next_step(f"srp serve --model {args.model} ... serves such answers")


def _identity(model: str) -> str:
    """What distinguishes its weights from others."""
    from megatron_srp.generation.threshold.calibration import model_fingerprint

    return model_fingerprint(Path(model)) if Path(model).is_dir() else model
