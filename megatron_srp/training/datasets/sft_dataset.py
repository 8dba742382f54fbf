"""Packed conversations as Megatron's data loader takes them: one sample is one training sequence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.utils import Split

from megatron_srp.sft.training_set import Sequences
from megatron_srp.training.flags import sft_flags as sft

KEYS = ("tokens", "labels", "loss_mask", "position_ids")


class PackedConversations(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Samples of `KEYS`, each int64[s].

    Conversations are concatenated, and the rest is padding, which is not learned:

        tokens        each conversation's ids without the last
        labels        each conversation's ids without the first
        loss_mask     1 where a label is learned
        position_ids  from 0 in each conversation and in the padding, which separates them

    Args:
        sequences: the conversations of each sample.
        split: by which Megatron's loader chooses the batch size.
    """

    def __init__(self, sequences: Sequences, split: Split) -> None:
        self.sequences, self.split = sequences, split

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        conversations = self.sequences.training_set
        sample = np.zeros((len(KEYS), conversations.seq_length), np.int64)
        end = 0
        for number in self.sequences[int(i)]:
            ids, mask = conversations[int(number)]
            begin, end = end, end + len(ids) - 1
            sample[:, begin:end] = ids[:-1], ids[1:], mask[1:], np.arange(end - begin)
        sample[KEYS.index("position_ids"), end:] = np.arange(conversations.seq_length - end)
        return dict(zip(KEYS, torch.from_numpy(sample), strict=True))


def build_sft_datasets(args: Any, num_samples: Sequence[int | None]) -> list[PackedConversations | None]:
    """Training, validation and (always None) test dataset; a number of None means one epoch.

    Every evaluation sees the same sequences, those of `--eval-iters` steps.
    """
    count, held_out_count, _ = num_samples
    assert count is not None
    training = PackedConversations(Sequences(sft.training_set_of(args), count, args.srp_sft_epochs), Split.train)
    held_out = sft.validation_set_of(args)
    if held_out is None:
        return [training, None, None]
    if held_out_count is None:
        sequences = Sequences(held_out, len(held_out.epoch(0)), epochs=1)
    else:
        period = args.eval_iters * args.eval_global_batch_size
        sequences = Sequences(held_out, held_out_count, epochs=1, period=period)
    return [training, PackedConversations(sequences, Split.valid), None]
