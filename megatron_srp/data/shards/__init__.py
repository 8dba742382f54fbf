"""Shards on disk: Megatron's two files, the sidecar, the manifest, and operations on whole shards."""
