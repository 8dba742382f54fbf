"""`srp sft`: chat data with reflections, for post-training and fine-tuning."""

from megatron_srp.cli.parser import next_step
from megatron_srp.cli.sft_flags import build_parser, settings_from_args

__all__ = ["build_parser", "main"]


def main(argv: list[str]) -> int:
    """Parse `argv`, build and write the set, print the counts. Returns the exit code."""
    settings = settings_from_args(build_parser().parse_args(argv))

    from megatron_srp.sft.job import make_sft_set

    result = make_sft_set(settings)
    for name, count in sorted(result.counts.items()):
        print(f"{name:<58} {count:,}")
    for line in result.notes:
        print(f"note: {line}")
    if settings.out:
        print(f"wrote {result.wrote}")
        next_step(f"srp sft --input {result.wrote} --format srp --mode reflection --output-prefix ... writes the shard")
    else:
        print(f"wrote {result.wrote}.bin, .idx and .mask")
        train = f"srp train --srp-sft {result.wrote}"
        next_step(f"srp show {result.wrote} prints what is learned; {train}")
    return 0
