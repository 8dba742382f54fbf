"""Policies: what becomes of a segment, by its verdict. Each is a YAML file; `policy.py` explains its fields."""
