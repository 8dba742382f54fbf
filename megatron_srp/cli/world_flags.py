"""The choices of `srp world`, which are the names that the world's own modules have; those import numpy."""

TASKS = ("single-hop", "two-hop")
SETTINGS = ("baseline", "filtering", "filtering-plus", "rewrite", "srp")
LABEL_POLICIES = ("by-outcome", "all-safe", "order-aware")
