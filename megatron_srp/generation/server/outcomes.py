"""What clients and logs learn of an answer's verdicts: nothing that the model wrote freely."""

from collections.abc import Sequence
from typing import Any

from megatron_srp.generation.guard.policy import Generation, to_record

# Of a category, as guards name them ("Sexual Content or Sexual Acts"). What is longer is text that nobody has judged:
# a model may write any words where a category is expected.
LONGEST_CATEGORY = 40  # characters
MOST_CATEGORIES = 4  # of a verdict


def outcome(generation: Generation) -> dict[str, Any]:
    """As `to_record`, with those categories of each verdict that are names."""
    record = to_record(generation)
    for reflection in record["reflections"]:
        reflection["categories"] = category_names(reflection["categories"])
    return record


def category_names(written: Sequence[str]) -> list[str]:
    """Those that can be names."""
    return [name for name in written if len(name) <= LONGEST_CATEGORY][:MOST_CATEGORIES]
