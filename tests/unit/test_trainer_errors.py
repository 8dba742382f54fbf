"""What Megatron raises when a checkpoint does not load, in one line that says what to do."""

import pytest
from torch.distributed.checkpoint.api import CheckpointException

from megatron_srp.errors import UsageError
from megatron_srp.training.process.errors import explain_load_errors


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("Error\n\nMissing key in checkpoint state_dict: decoder.layers.mlp._extra_state/shard_0_2."),
            "Missing key .*; it was written without Transformer Engine, .* --dist-ckpt-strictness log_unexpected$",
        ),
        (
            AssertionError("OptimizerParamScheduler: class input value 1 and checkpoint value 2 do not match"),
            "let the new ones win with --override-opt-param-scheduler$",
        ),
        (
            CheckpointException("load", {}),
            "the first rank says why; give the model and layout flags .*, or an earlier --ckpt-step if it is damaged$",
        ),
        (SystemExit(0), "it says why above; give the model and layout flags of the run that wrote it$"),
        (ValueError(), "from it: ValueError; give the model"),
    ],
)
def test_a_checkpoint_that_does_not_load(error: BaseException, line: str) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(UsageError, match=line) as caught:
        explain_load_errors(fails, lambda: "out/run")()
    assert str(caught.value).startswith("--load out/run: Megatron cannot go on from it: ")
    assert "\n" not in str(caught.value)
