"""The choices of `srp world`, the same names as in the world's modules, which import numpy."""

TASKS = ("single-hop", "two-hop")
SETTINGS = ("baseline", "filtering", "filtering-plus", "rewrite", "srp", "filtering-tags", "filtering-filler")
LABEL_POLICIES = ("by-outcome", "all-safe", "order-aware", "random")
CAUSE_FIRST = "co-occurrence texts never name the outcome first, so no text of filtering's states the harmful direction"
