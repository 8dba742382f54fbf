"""The flags that a run refuses, since they would silently break the method or would be silently ignored."""

import argparse

from megatron_srp.errors import UsageError
from megatron_srp.training.datasets import dali as dali_loader

_CUTS_CONTEXT = (
    "it restarts at every end-of-document token, and a reflection puts one inside a document after an "
    "unsafe segment: the model would not see the text that it has to stop. Leave it out"
)
_OTHER_DATASET = "this entry point feeds pretraining shards only"
_OTHER_BATCH = "this entry point does not build such batches; `srp run` runs a script that does. Leave it out"
_CONVERSATIONS = (
    "conversations are packed whole, each with its own attention, which this trainer neither divides among GPUs nor "
    "predicts further ahead. Leave it out"
)

REFUSED = {
    "--reset-position-ids": _CUTS_CONTEXT,
    "--reset-attention-mask": _CUTS_CONTEXT,
    "--yaml-cfg": "Megatron then drops every flag on the command line. Pass flags or --srp-preset",
    "--sft": "Megatron's --sft masks the stop signal (its pad id is eos). Use --srp-sft PREFIX",
    "--fim-data": _OTHER_DATASET + ", and fill-in-the-middle would tear reflections from their segments",
    "--hybrid-context-parallel": _OTHER_BATCH,
    "--perform-rl-step": "this entry point only pretrains",
}

# Refused with --srp-sft only; pretraining allows them.
REFUSED_WITH_SFT = {
    "--context-parallel-size": _CONVERSATIONS,
    "--mtp-num-layers": _CONVERSATIONS,
    "--dataloader-inter-document-masking": "conversations are kept apart in any case. Leave it out",
}


def check_flags(args: argparse.Namespace) -> list[str]:
    """Refuse flags that would silently break the method; returns notes for the user, one line each.

    `args` is a namespace from `command_line.look_at` or from Megatron's own parser.
    """
    for flag, reason in (REFUSED | (REFUSED_WITH_SFT if args.srp_sft else {})).items():
        value = getattr(args, flag[2:].replace("-", "_"))
        if value and (flag, value) != ("--context-parallel-size", 1):
            raise UsageError(f"{flag} cannot be used here: {reason}")
    if args.async_save and not args.use_persistent_ckpt_worker:
        raise UsageError(
            "--async-save needs --use-persistent-ckpt-worker, or Megatron saves while training waits; pass both "
            "(and --async-strategy mcore where nvidia-resiliency-ext is not installed)"
        )
    if args.srp_keep_checkpoints < 1:
        raise UsageError(f"--srp-keep-checkpoints {args.srp_keep_checkpoints}: must be at least 1")
    if args.srp_dataloader == "dali":
        dali_loader.check_installed()
    if args.eod_mask_loss:
        # It masks positions whose *input* is eod: the eos after an unsafe reflection is still learned.
        return ["--eod-mask-loss: the first token after each mid-document stop is not trained either"]
    return []


def check_pad_token(pad_id: int | None, eod_id: int | None, allow_ambiguous_pad_tokens: bool) -> None:
    """Refuse the one setting in which a pad id equal to eos removes the stop signal from the loss.

    By default Megatron notices the collision and masks nothing; `--allow-ambiguous-pad-tokens`
    (its help seems to say the opposite) makes it mask every eos.
    """
    if allow_ambiguous_pad_tokens and pad_id is not None and pad_id == eod_id:
        raise UsageError(
            f"--allow-ambiguous-pad-tokens cannot be used with this tokenizer: its pad token is its eos "
            f"(id {eod_id}), so every stop after an unsafe segment would be left out of the loss. Leave "
            f"the flag out, or use a tokenizer with a pad token of its own"
        )
