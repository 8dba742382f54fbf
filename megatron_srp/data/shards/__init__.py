"""Shards on disk: Megatron's two files, the sidecar, the manifest, and what is done with whole shards."""
