"""Batches through DALI are those of the loader it is given, in order; on the CPU, without a GPU."""

import subprocess
import sys

import pytest

from megatron_srp.errors import UsageError
from megatron_srp.training.flags.command_line import look_at
from megatron_srp.training.flags.refused import check_flags


def test_one_line_where_it_is_not_installed(monkeypatch) -> None:
    import megatron_srp.training.datasets.dali as dali_loader

    monkeypatch.setattr(dali_loader, "find_spec", lambda name: None)
    check_flags(look_at(["--mock-data"]))
    with pytest.raises(UsageError, match=r"DALI is not installed\. Install it with: pip install nvidia-dali"):
        check_flags(look_at(["--srp-dataloader", "dali"]))


CODE = """
import torch
from megatron_srp.training.datasets.dali import DaliLoader

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 50
    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        tokens = torch.randint(50_000, (9,), generator=generator)
        return {"tokens": tokens[:-1], "labels": tokens[1:], "loss_mask": (tokens[1:] % 3 > 0).float()}

order = torch.randperm(50, generator=torch.Generator().manual_seed(1)).tolist()
for workers in (0, 1):
    batches = [order[i:i + 4] for i in range(0, 48, 4)]
    loader = torch.utils.data.DataLoader(Numbers(), batch_sampler=batches, num_workers=workers)
    dali = DaliLoader(loader, device_id=None)
    assert len(dali) == 12
    for _ in range(2):  # each iteration begins anew
        ours = list(dali)  # all held at once: none may share memory with the pipeline's buffers
        theirs = list(loader)
        assert len(ours) == len(theirs) == 12
        for mine, other in zip(ours, theirs):
            assert list(mine) == list(other)
            for key in other:
                assert mine[key].dtype == other[key].dtype and torch.equal(mine[key], other[key]), key
assert list(DaliLoader([], None)) == []
print("equal")
"""


def test_the_same_batches() -> None:
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (extra `gpu`)")
    # A process of its own: DALI's threads and forked workers are none of pytest's business.
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=600)
    assert (result.returncode, result.stdout) == (0, "equal\n"), result.stderr
