"""The data job: input files or shards in, shards or sidecars out, on one machine or many."""
