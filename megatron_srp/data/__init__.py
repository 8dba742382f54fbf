"""Tokens: shards with reflections, written, described, and turned back."""
