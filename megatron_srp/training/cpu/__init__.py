"""Megatron's trainer without a GPU."""
