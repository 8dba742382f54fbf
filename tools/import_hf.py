#!/usr/bin/env python3
"""Turn a Hugging Face Llama (SmolLM2, say) into a checkpoint that training starts from with --pretrained-checkpoint."""

import shlex
import sys
from pathlib import Path

from megatron_srp.errors import CommandParser, run_command


def main(argv: list[str]) -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder with config.json and safetensors")
    parser.add_argument("out", type=Path, help="folder to write; it is written whole or not at all")
    parser.add_argument(
        "--dtype", default="as-saved", metavar="TYPE", help="bfloat16, float32 or as-saved (the default)"
    )
    parser.add_argument("--tokenizer", metavar="PATH", help="the run's tokenizer, where it has more tokens")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_args(argv)

    from megatron_srp.checkpoints.import_hf import import_hf

    done = import_hf(args.model, args.out, dtype=args.dtype, tokenizer=args.tokenizer, overwrite=args.overwrite)
    print(f"parameters    {done.num_params:,}")
    new = f" ({done.new_tokens:,} new, at the mean of all embeddings)" if done.new_tokens else ""
    print(f"vocabulary    {done.shape.vocab_size:,}{new}")
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"wrote         {done.folder}")
    print(f"train with    {shlex.join(done.flags)}")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
