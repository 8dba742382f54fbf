"""Thresholds of forced reflections, chosen from measured cases."""
