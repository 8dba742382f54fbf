"""`srp export`: a Megatron checkpoint as a Hugging Face folder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_srp.cli.parser import Parser, next_step

if TYPE_CHECKING:
    from megatron_srp.model_description import ModelDescription

DESCRIPTION = "Turn a Megatron checkpoint, of any parallel layout, into a Hugging Face folder."


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp export", description=DESCRIPTION, old_names={"--tokenizer": "--tokenizer-model"})
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="a run's --save folder, or one of its iter_* folders")
    add("out", type=Path, metavar="OUT", help="folder to write; it is written whole or not at all")
    add("--step", type=int, metavar="N", help="the training step whose checkpoint to export (default: the latest)")
    add(
        "--dtype",
        choices=["as-saved", "bfloat16", "float16", "float32"],
        default="as-saved",
        help="number format of the weights",
    )
    add(
        "--tokenizer-model",
        metavar="PATH",
        help="the run's tokenizer, if it has moved (default: the path that the run used)",
    )
    add("--overwrite", action="store_true", help="replace existing output")
    return parser


def _reflections(description: "ModelDescription | None") -> str:
    if description is None:
        return "unknown: the checkpoint does not record its data, and there is no srp.json"
    if description.form is None:
        return "none in its data (srp.json)"
    hints = ", with hints" if description.form.hints else ""
    tokens = "special tokens" if description.form.special_tokens else "plain text"
    return f"{description.form.open} in {tokens}{hints} (srp.json)"


def main(argv: list[str]) -> None:
    """Parse `argv`, export, print what was written."""
    args = build_parser().parse_args(argv)

    from megatron_srp.checkpoints.export_hf import export_hf

    done = export_hf(
        args.checkpoint,
        args.out,
        step=args.step,
        dtype=args.dtype,
        tokenizer=args.tokenizer_model,
        overwrite=args.overwrite,
    )
    print(f"checkpoint    {done.source}")
    print(f"parameters    {done.num_params:,} in {done.dtype}, {done.num_bytes:,} bytes")
    print(f"vocabulary    {done.shape.vocab_size:,} ({done.padding_rows:,} rows of padding cut)")
    print(f"tokenizer     {done.tokenizer}\nwrote         {done.folder}")
    print(f"reflections   {_reflections(done.description)}")
    next_step(f"srp generate --model {done.folder} talks to it; srp evaluate {done.folder} --out ... attacks it")
