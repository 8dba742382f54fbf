"""The annotation job: input files in, a store of verdicts or hints out."""
