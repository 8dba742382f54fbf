"""The eos after an unsafe reflection is a label that counts, in Megatron's dataset as we set it up."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from megatron_srp.training.datasets.run_tokenizer import run_tokenizer
from tests.distributed.corpus import EOS, write_shard

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

# One document with an eos in the middle, as after an unsafe segment, and one at its end.
DOCUMENT = [1, 2, 3, EOS, 4, 5, 6, EOS]


def loss_mask(tmp_path: Path, pad: int, own_eos: int = EOS, chosen: int = EOS, **options: bool) -> list[float]:
    """The loss mask of the sample that is the whole document; its labels are DOCUMENT[1:].

    Args:
        own_eos: of the tokenizer; `chosen` is what the data record as the end of documents.
    """
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    prefix = tmp_path / "shard"
    write_shard(prefix, [np.array(DOCUMENT, dtype=np.uint16)])
    megatrons = SimpleNamespace(eod=own_eos, eos=own_eos, pad=pad, vocab_size=256, unique_identifiers={})
    tokenizer = run_tokenizer(megatrons, {"end_of_document": {"id": chosen, "token": None}})
    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=len(DOCUMENT) - 1,
        blend=([str(prefix)], None),
        split="1,0,0",
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        create_attention_mask=False,
        **{"eod_mask_loss": False, **options},
    )
    dataset = GPTDataset(IndexedDataset(str(prefix)), str(prefix), np.arange(1), 1, Split.train, config)
    sample = dataset[0]
    mask = sample["loss_mask"]
    labels = np.where(mask == 1, DOCUMENT[1:], sample["labels"])  # of masked ones the id is of no account
    assert labels[mask == 1].tolist() == sample["labels"][mask == 1].tolist()
    return mask.tolist()


def test_every_stop_is_learned(tmp_path: Path) -> None:
    assert loss_mask(tmp_path, pad=0) == [1, 1, 1, 1, 1, 1, 1]


def test_also_where_pad_is_eos(tmp_path: Path) -> None:
    assert loss_mask(tmp_path, pad=EOS) == [1, 1, 1, 1, 1, 1, 1]


def test_also_where_pad_is_the_token_that_the_data_chose(tmp_path: Path) -> None:
    """Qwen's pad token ends documents with `--eod-token '<|endoftext|>'`, and its eos is another."""
    assert loss_mask(tmp_path, pad=EOS, own_eos=9) == [1, 1, 1, 1, 1, 1, 1]
    assert loss_mask(tmp_path, pad=0, own_eos=9, eod_mask_loss=True) == [1, 1, 1, 0, 1, 1, 1]
    # Were these to fail, run_tokenizer could be dropped.
    masks = loss_mask(tmp_path, pad=EOS, own_eos=9, chosen=9)
    assert masks[2] == masks[6] == 0


def test_what_is_refused_would_mask_the_stops(tmp_path: Path) -> None:
    # Were this to fail, the refusal in refused.check_pad_token could be dropped.
    masks = loss_mask(tmp_path, pad=EOS, allow_ambiguous_pad_tokens=True)
    assert masks[2] == masks[6] == 0


def test_eod_mask_loss_leaves_the_stop_itself(tmp_path: Path) -> None:
    assert loss_mask(tmp_path, pad=0, eod_mask_loss=True) == [1, 1, 1, 0, 1, 1, 1]
