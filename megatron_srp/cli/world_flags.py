"""The choices of `srp world`, the same names as in the world's modules, which import numpy."""

TASKS = ("single-hop", "two-hop")
SETTINGS = ("baseline", "filtering", "filtering-plus", "rewrite", "srp")
LABEL_POLICIES = ("by-outcome", "all-safe", "order-aware")
