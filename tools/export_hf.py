#!/usr/bin/env python3
"""Turn a checkpoint of Megatron, of any parallel layout, into a Hugging Face folder."""

import sys
from pathlib import Path

from megatron_srp.errors import CommandParser, run_command


def main(argv: list[str]) -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a run's --save folder, or one iter_... in it")
    parser.add_argument("out", type=Path, help="folder to write; it is written whole or not at all")
    parser.add_argument("--step", type=int, metavar="N", help="which iteration (default: the latest)")
    parser.add_argument(
        "--dtype", default="as-saved", metavar="TYPE", help="bfloat16, float16, float32 or as-saved (the default)"
    )
    parser.add_argument("--tokenizer", metavar="PATH", help="where the run's tokenizer is now")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_args(argv)

    from megatron_srp.checkpoints.export_hf import export_hf

    done = export_hf(
        args.checkpoint,
        args.out,
        step=args.step,
        dtype=args.dtype,
        tokenizer=args.tokenizer,
        overwrite=args.overwrite,
    )
    print(f"checkpoint    {done.source}")
    print(f"parameters    {done.num_params:,} in {done.dtype}, {done.num_bytes:,} bytes")
    print(f"vocabulary    {done.shape.vocab_size:,} ({done.padding_rows:,} rows of padding cut)")
    print(f"tokenizer     {done.tokenizer}\nwrote         {done.folder}")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
