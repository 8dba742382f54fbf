"""The command line of a training run: what decides whether it may start, and how it is printed.

Neither this nor `refused` and `defaults` imports torch or Megatron, so that a mistake is reported in a fraction of a
second rather than after Megatron's imports.
"""

import argparse
import shlex

from megatron_srp.errors import CommandParser
from megatron_srp.training.flags.refused import REFUSED, REFUSED_WITH_SFT
from megatron_srp.training.flags.srp_flags import add_srp_arguments
from megatron_srp.training.layout.model_from_flags import SHAPE_FLAGS

# The flags that decide whether a run may start, in Megatron's own spelling and types.
LOOKED_AT: dict[str, dict[str, object]] = {
    "--train-iters": {"type": int},
    "--train-samples": {"type": int},
    "--data-path": {"nargs": "*"},
    "--train-data-path": {"nargs": "*"},
    "--valid-data-path": {"nargs": "*"},
    "--test-data-path": {"nargs": "*"},
    "--data-args-path": {},
    "--per-split-data-args-path": {},
    "--mock-data": {"action": "store_true"},
    "--tokenizer-type": {},
    "--tokenizer-model": {},
    "--use-checkpoint-args": {"action": "store_true"},
    "--load": {},
    "--save": {},
    "--tensorboard-dir": {},
    "--data-cache-path": {},
    "--object-storage-cache-path": {},
    "--no-mmap-bin-files": {"action": "store_false", "dest": "mmap_bin_files"},
    "--pretrained-checkpoint": {},
    "--finetune": {"action": "store_true"},
    "--ckpt-step": {"type": int},
    "--seed": {"type": int},
    "--split": {},
    "--eval-iters": {"type": int},
    "--full-validation": {"action": "store_true"},
    "--yaml-cfg": {},
    "--async-save": {"action": "store_true"},
    "--use-persistent-ckpt-worker": {"action": "store_true"},
    "--eod-mask-loss": {"action": "store_true"},
    "--context-parallel-size": {"type": int},
    "--mtp-num-layers": {"type": int},
    "--help": {"action": "store_true"},
}
LOOKED_AT |= SHAPE_FLAGS
for _name in REFUSED | REFUSED_WITH_SFT:
    LOOKED_AT.setdefault(_name, {"action": "store_true"})


def look_at(argv: list[str]) -> argparse.Namespace:
    """Parse the few flags that decide whether a run may start; Megatron parses all others."""
    parser = add_srp_arguments(CommandParser(add_help=False))
    for flag, kwargs in LOOKED_AT.items():
        parser.add_argument(flag, **kwargs)  # type: ignore[arg-type]
    return parser.parse_known_args(argv)[0]


def format_flags(argv: list[str]) -> str:
    """One flag with its values per line, quoted for a shell."""
    lines: list[str] = []
    for token in argv:
        if token.startswith("--") or not lines:
            lines.append(shlex.quote(token))
        else:
            lines[-1] += " " + shlex.quote(token)
    return "\n".join(lines)
