"""The flags that say how reflections are written, for the commands that write them."""

import argparse

from megatron_srp.data.policies.policy import NAMES
from megatron_srp.segmentation import DEFAULT_MAX_WORDS


def add_reflection_flags(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """Add the group "reflections", and `hints`, which is off unless the command has a flag for it."""
    group = parser.add_argument_group("reflections")
    add = group.add_argument
    add(
        "--max-words",
        type=int,
        default=DEFAULT_MAX_WORDS,
        metavar="N",
        help="maximum words per segment; fewer words make more reflections, and more tokens",
    )
    add(
        "--reflection-tokens",
        choices=["text", "special"],
        default="text",
        help="text: <think> as plain text, the paper's form; special: as a special token, of the extended tokenizer "
        "that `srp preprocess` writes to PREFIX_tokenizer. The same for pretraining and post-training (default: text, "
        "in `srp preprocess` what the policy says)",
    )
    add(
        "--stop-after",
        default="Unsafe,Controversial",
        metavar="VERDICTS",
        help="verdicts followed by end-of-text; none for none",
    )
    add(
        "--controversial",
        choices=["keep", "safe", "unsafe"],
        default="keep",
        help="write Controversial as it is, or as another verdict",
    )
    parser.set_defaults(hints=False)
    return group


def add_policy_flags(parser: argparse.ArgumentParser, group: "argparse._ArgumentGroup") -> None:
    """Add the flags that say what becomes of segments; a policy says itself which tokens it writes by default."""
    parser.set_defaults(reflection_tokens=None)
    group.add_argument(
        "--policy",
        default="srp",
        metavar="NAME",
        help=f"what becomes of a segment by its verdict: {', '.join(NAMES)}, or a YAML file",
    )
    group.add_argument(
        "--start-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="with --input-shards: the share of training before which the plain shard is read, such as 0.2",
    )
