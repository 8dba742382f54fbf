"""The `--srp-*` flags that `srp run` adds to a script's own: those that do not need our entry point."""

import argparse
import dataclasses

from megatron_srp.training.flags.srp_flags import SrpArguments

RUN_FLAGS = (
    "srp_preset",
    "srp_precision",
    "srp_layout",
    "srp_sidecar",
    "srp_allow_new_data",
    "srp_log",
    "srp_log_reflections",
)


def add_run_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the flags, and the defaults of this project's other ones, which the checks read."""
    group = parser.add_argument_group(title="safety reflection pretraining")
    for field in dataclasses.fields(SrpArguments):
        if field.name in RUN_FLAGS:
            group.add_argument("--" + field.name.replace("_", "-"), default=field.default, **field.metadata)
        else:
            parser.set_defaults(**{field.name: field.default})
    return parser
