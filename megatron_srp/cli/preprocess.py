"""The command of tools/preprocess_with_reflections.py. Heavy imports wait until flags are parsed."""

from typing import TYPE_CHECKING

from megatron_srp.cli.preprocess_flags import build_parser, validate
from megatron_srp.corpus.partitions import Partition
from megatron_srp.reflection import reflection_format

if TYPE_CHECKING:
    pass


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

        return run_on_ray(args, files)
    partition = Partition(args.partition_index, args.num_partitions) if args.num_partitions else None
    own = [files[number] for number in partition.numbers(files)] if partition else files
    if partition and not own:
        print(f"{len(files)} input files in {partition.count} partitions: none is left for partition {partition.index}")
        return 0
    with ProgressDisplay() as display:
        manifest, errors = run_job(args, own, display, partition, len(files))
    print_summary(partition.prefix(args.output_prefix) if partition else args.output_prefix, manifest, errors)
    if not partition:  # a partition may well be without; the merged shard is asked instead
        require_documents(manifest)
    return 0
