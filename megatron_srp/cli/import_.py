"""`srp import`: a Hugging Face Llama, or one in a GGUF file, as a checkpoint to train from."""

import argparse
import shlex
import sys
from pathlib import Path

from megatron_srp.cli.parser import Parser, next_step

DESCRIPTION = """
Turn a Hugging Face Llama (such as SmolLM2), or one in a GGUF file, into a checkpoint that training starts from with
--pretrained-checkpoint.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="srp import", description=DESCRIPTION, old_names={"--tokenizer": "--tokenizer-model"})
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="folder with config.json and safetensors, or a GGUF file")
    add("out", type=Path, metavar="OUT", help="folder to write; it is written whole or not at all")
    add("--dtype", choices=["as-saved", "bfloat16", "float32"], default="as-saved", help="number format of the weights")
    add(
        "--tokenizer-model",
        metavar="PATH",
        help="tokenizer to train with, if tokens were added to it (default: the model's own; that of a GGUF file is "
        "written to OUT/tokenizer)",
    )
    add("--overwrite", action="store_true", help="replace existing output")
    return parser


def main(argv: list[str]) -> None:
    """Parse `argv`, import, print the flags that the model needs in training."""
    args = build_parser().parse_args(argv)

    from megatron_srp.checkpoints.import_hf import import_hf

    done = import_hf(args.model, args.out, dtype=args.dtype, tokenizer=args.tokenizer_model, overwrite=args.overwrite)
    new = f" ({done.new_tokens:,} new, at the mean of all embeddings)" if done.new_tokens else ""
    print(f"parameters    {done.num_params:,}")
    print(f"vocabulary    {done.shape.vocab_size:,}{new}")
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"wrote         {done.folder}")
    flags = shlex.join(done.flags)
    next_step(f"srp train --nproc-per-node N {flags} --data-path PREFIX --train-iters N --save DIR")
