"""`srp preprocess`: the data job, on texts or on existing shards."""

import argparse
from typing import TYPE_CHECKING, Any

from megatron_srp.cli import work_folder
from megatron_srp.cli.parser import next_step
from megatron_srp.cli.preprocess_flags import build_parser, validate

if TYPE_CHECKING:
    from megatron_srp.data.shards.upload import ShardUpload

__all__ = ["build_parser", "main"]


def main(argv: list[str]) -> int:
    """Parse `argv`, run the job, print a summary. Returns the exit code."""
    args = build_parser().parse_args(argv)
    validate(args)
    if args.input_shards:
        _on_shards(args)
    elif args.executor == "ray":
        _on_ray(args)
    else:
        _on_texts(args)
    return 0


def _on_texts(args: argparse.Namespace) -> None:
    from megatron_srp.corpus.input_files import InputFiles
    from megatron_srp.data.preprocess.summary import print_summary
    from megatron_srp.data.preprocess.text_job import run_job
    from megatron_srp.data.preprocess.text_pipeline import require_documents
    from megatron_srp.terminal.display import ProgressDisplay

    work_folder.fetch_store(args)
    files = InputFiles.from_args(args)
    partition, prefix = files.partition, args.output_prefix
    if partition and not files.own:
        count = f"{len(files.all)} input files in {partition.count} partitions"
        print(f"{count}: none is left for partition {partition.index}")
    else:
        upload = work_folder.shard_upload(args, partition)
        with ProgressDisplay() as display:
            manifest, errors = run_job(args, files, display, keep_finished=upload is not None)
        made = args.output_prefix
        print_summary(partition.prefix(made) if partition else made, manifest, errors)
        _publish(upload)
    if partition:
        next_step(f"when all partitions are made, srp merge JOINED {prefix}")
    else:  # a partition may have no documents; the merged shard shows it instead
        require_documents(manifest)
        path = _next_to(prefix, manifest["shards"][0])
        _suggest_training(prefix, path, manifest)


def _on_ray(args: argparse.Namespace) -> None:
    from megatron_srp.corpus.patterns import expand_inputs
    from megatron_srp.data.preprocess.ray_executor import run_on_ray

    run_on_ray(args, expand_inputs(args.input))
    prefix = args.output_prefix
    next_step(f"srp merge JOINED {prefix}" if args.no_merge else f"srp inspect {prefix} shows the verdicts")


def _on_shards(args: argparse.Namespace) -> None:
    from megatron_srp.data.preprocess.shard_job import run_shard_job
    from megatron_srp.data.preprocess.summary import print_sidecars, print_summary
    from megatron_srp.data.preprocess.text_pipeline import require_documents
    from megatron_srp.terminal.display import ProgressDisplay

    work_folder.fetch_store(args)
    prefix = args.output_prefix
    upload = work_folder.shard_upload(args, None)
    with work_folder.fetched_shards(args) as urls:
        if upload:
            urls[upload.prefix] = prefix
        with ProgressDisplay() as display:
            shards, manifest = run_shard_job(args, display, urls)
        print_summary(args.output_prefix, manifest, [])
        print_sidecars(args.output_prefix, manifest, shards)
        _publish(upload)
    require_documents(manifest)
    path = _next_to(prefix, (manifest["sidecars"] or manifest["shards"])[0])
    shard = urls.get(shards[0], str(shards[0]))
    _suggest_training(path, f"{shard} --srp-sidecar {path}.srp" if manifest["sidecars"] else path, manifest)


def _publish(upload: "ShardUpload | None") -> None:
    if upload:
        upload.publish()
        print(f"moved them to {upload.url.rpartition('/')[0]}")


def _suggest_training(made: str, data: str, manifest: dict[str, Any]) -> None:
    """The next commands: Megatron takes more flags for data on S3."""
    from megatron_srp.data.policies.policy import is_treated

    streamed = " --no-mmap-bin-files --object-storage-cache-path DIR" if "s3://" in data else ""
    look = f"srp inspect {made} shows the verdicts" if is_treated(manifest) else f"srp verify {made} checks the files"
    next_step(f"{look}; srp train --data-path {data}{streamed} ...")


def _next_to(prefix: str, made: dict[str, Any]) -> str:
    return f"{prefix[: prefix.rfind('/') + 1]}{made['name']}"
