"""Tokens: shards with reflections, written, described, and stripped."""
