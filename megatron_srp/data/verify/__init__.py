"""Checks of finished shards."""
