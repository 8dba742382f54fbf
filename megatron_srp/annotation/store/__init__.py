"""Verdicts and hints on disk."""
