"""Guarded generation on transformers' models."""
