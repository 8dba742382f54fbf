"""The vocabulary's padded size, which a run takes from the checkpoint that it starts from.

Megatron pads the vocabulary to a multiple of --make-vocab-size-divisible-by x TP. Under another TP it would add
rows to the embedding that no step has trained, and they take part in the softmax: the loss would jump.
"""

import argparse


def keep_padded_size(saved: argparse.Namespace, args: argparse.Namespace, vocab_size: int) -> str | None:
    """Set `args.padded_vocab_size` to a checkpoint's, if this run's vocabulary and layout allow it.

    Args:
        saved: the checkpoint's arguments; an imported model has no padding to keep.
        args: this run's, validated.
        vocab_size: of this run's tokenizer, in tokens.

    Returns:
        A note if they do not allow it.
    """
    size, tensor = getattr(saved, "padded_vocab_size", None), args.tensor_model_parallel_size
    if size is None or size < vocab_size or size == args.padded_vocab_size:
        return None
    if size % tensor:
        return (
            f"the checkpoint's vocabulary is padded to {size:,}, which TP {tensor} cannot divide: it has "
            f"{args.padded_vocab_size:,} here, and the loss changes a little"
        )
    args.padded_vocab_size = size
    return None
