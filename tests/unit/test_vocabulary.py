"""Which padded vocabulary a run has that begins with a checkpoint."""

from argparse import Namespace

import pytest

from megatron_srp.training.checks.vocabulary import keep_padded_size


@pytest.mark.parametrize(
    ("saved", "tensor", "own", "kept"),
    [
        (50_304, 2, 50_432, 50_304),  # GPT-2's
        (50_432, 1, 50_304, 50_432),
        (128_256, 8, 129_024, 128_256),  # Llama 3's
        (50_304, 128, 65_536, 50_304),
        (50_240, 1, 50_304, 50_304),  # tokens were added since
        (None, 2, 50_432, 50_432),  # an imported model
    ],
)
def test_the_padded_size(saved: int | None, tensor: int, own: int, kept: int) -> None:
    args = Namespace(tensor_model_parallel_size=tensor, padded_vocab_size=own)
    assert keep_padded_size(Namespace(padded_vocab_size=saved), args, 50_257 if own < 100_000 else 128_256) is None
    assert args.padded_vocab_size == kept


def test_a_layout_that_cannot_divide_it() -> None:
    args = Namespace(tensor_model_parallel_size=2, padded_vocab_size=50_432)
    note = keep_padded_size(Namespace(padded_vocab_size=50_257), args, 50_257)
    assert note is not None and "padded to 50,257, which TP 2 cannot divide: it has 50,432 here" in note
    assert args.padded_vocab_size == 50_432
