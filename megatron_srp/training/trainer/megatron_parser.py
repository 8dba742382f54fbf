"""Megatron's own parser with this project's flags added, and its complaints in one line."""

import argparse
import contextlib
import io
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from megatron.core.extensions.transformer_engine import HAVE_TE
from megatron.training.argument_utils import (
    gpt_config_from_args,
    hybrid_config_from_args,
    pretrain_cfg_container_from_args,
)
from megatron.training.arguments import parse_and_validate_args, parse_args, validate_args

from megatron_srp.errors import SrpError, UsageError, explain_parse_error
from megatron_srp.tokenization import load_tokenizer
from megatron_srp.training.datasets.sft_batch import prepare_attention
from megatron_srp.training.flags.srp_flags import add_srp_arguments


def prepare_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add our flags to Megatron's parser, and make its errors and its help readable."""
    add_srp_arguments(parser)
    parser.usage = "srp train [--nproc-per-node N] [--srp-preset NAME] [any Megatron flag]"
    parser._action_groups.insert(0, parser._action_groups.pop())  # ours first: Megatron's fill 2,000 lines
    if os.environ.get("RANK", "0") != "0":
        parser.print_help = lambda file=None: None  # type: ignore[method-assign]
    for action in parser._actions:  # three of 0.19's help texts have a bare "%", which breaks --help
        action.help = re.sub(r"%%|%\(\w+\)\w|%", lambda m: "%%" if m[0] == "%" else m[0], action.help or "")

    def error(message: str) -> None:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise explain_parse_error(message, flags)

    parser.error = error  # type: ignore[method-assign,assignment]
    return parser


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse and validate; Megatron's own errors become one line too."""
    sys.argv[1:] = argv  # the only list that Megatron reads
    with _complaints_in_one_line():
        return parse_and_validate_args(extra_args_provider=prepare_parser)


def check_arguments(argv: list[str], gpus: int) -> argparse.Namespace:
    """Parse and validate as a run on `gpus` ranks would, without starting it. No GPU is needed."""
    sys.argv[1:] = argv
    os.environ.update(WORLD_SIZE=str(gpus), RANK="0", LOCAL_RANK="0")
    with _complaints_in_one_line(), contextlib.redirect_stdout(io.StringIO()):
        args = parse_args(prepare_parser)
        validate_args(args)
        if not HAVE_TE:  # the target machine has it
            args.apply_rope_fusion = False
        if args.srp_sft:
            prepare_attention(args)
        if args.vocab_size is None and args.tokenizer_type in ("HuggingFaceTokenizer", "SentencePieceTokenizer"):
            # Megatron gets it from its tokenizer later during start-up.
            args.vocab_size = load_tokenizer(args.tokenizer_type, args.tokenizer_model).vocab_size
        # The model's own configuration has rules too.
        pretrain_cfg_container_from_args(args, model_config(args))
    return args


def model_config(args: argparse.Namespace) -> Any:
    """Megatron's configuration of a HybridModel, if the arguments have a pattern of layers, or of a GPTModel."""
    if args.hybrid_layer_pattern:
        return hybrid_config_from_args(args)
    config = gpt_config_from_args(args)
    config.rope_scaling_factor = args.rope_scaling_factor  # 0.19 does not pass it on: always Llama 3.1's 8
    return config


@contextlib.contextmanager
def _complaints_in_one_line() -> Iterator[None]:
    try:
        yield
    except SrpError:
        raise
    except (AssertionError, ValueError, RuntimeError, OSError) as error:
        # Most of its checks are assertions, many without a message: then the source line explains it.
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = " ".join(str(error).split()) or where.line
        raise UsageError(f"Megatron refuses these flags: {message}") from error
