"""Megatron's training on data with reflections: flags, checks, datasets, and what starts and watches the ranks."""
