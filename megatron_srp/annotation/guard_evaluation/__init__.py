"""Evaluation of guards on labelled texts."""
