"""`srp preprocess`: the data job."""

from typing import Any

from megatron_srp.cli.parser import next_step
from megatron_srp.cli.preprocess_flags import build_parser, validate
from megatron_srp.corpus.partitions import Partition
from megatron_srp.reflection import reflection_format

__all__ = ["build_parser", "main"]


def main(argv: list[str]) -> int:
    """Parse `argv`, run the job, print a summary. Returns the exit code."""
    args = build_parser().parse_args(argv)
    validate(args)

    from megatron_srp.corpus.readers import expand_inputs
    from megatron_srp.data.preprocess.summary import print_summary
    from megatron_srp.data.preprocess.text_job import judge_of, run_job
    from megatron_srp.data.preprocess.text_pipeline import require_documents
    from megatron_srp.terminal.display import ProgressDisplay

    if args.input_shards:
        from megatron_srp.cli import preprocess_shards

        return preprocess_shards.run(args, reflection_format(args), judge_of(args))
    files = expand_inputs(args.input)
    if args.executor == "ray":
        from megatron_srp.data.preprocess.ray_executor import run_on_ray

        run_on_ray(args, files)
        joined = f"srp inspect {args.output_prefix} shows the verdicts"
        next_step(f"srp merge JOINED {args.output_prefix}" if args.no_merge else joined)
        return 0
    partition = Partition(args.partition_index, args.num_partitions) if args.num_partitions else None
    own = [files[number] for number in partition.numbers(files)] if partition else files
    if partition and not own:
        print(f"{len(files)} input files in {partition.count} partitions: none is left for partition {partition.index}")
        next_step(f"when all partitions are made, srp merge JOINED {args.output_prefix}")
        return 0
    with ProgressDisplay() as display:
        manifest, errors = run_job(args, own, display, partition, len(files))
    prefix = partition.prefix(args.output_prefix) if partition else args.output_prefix
    print_summary(prefix, manifest, errors)
    if partition:
        next_step(f"when all partitions are made, srp merge JOINED {args.output_prefix}")
    else:  # a partition may have no documents; the merged shard shows it instead
        require_documents(manifest)
        next_step(_training(prefix, manifest))
    return 0


def _training(prefix: str, manifest: dict[str, Any]) -> str:
    shard = manifest["shards"][0]["name"]
    folder = prefix.rpartition("/")[0]
    path = f"{folder}/{shard}" if folder else shard
    return f"srp inspect {prefix} shows the verdicts; srp train --data-path {path} ..."
