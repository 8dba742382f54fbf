"""The choices of `srp world`, the same names as in the world's modules, which import numpy."""

TASKS = ("single-hop", "two-hop")
SETTINGS = (
    *("baseline", "filtering", "filtering-plus", "rewrite", "srp"),
    *("filtering-tags", "filtering-filler", "srp-questions"),
)
LABEL_POLICIES = ("by-outcome", "all-safe", "order-aware", "random")
CAUSE_FIRST = (
    "never name the outcome first in co-occurrence texts, so that no text of `filtering` states the harmful direction"
)
