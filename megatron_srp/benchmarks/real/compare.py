"""Megatron's first logits and losses, as record.py kept them, compared with transformers' on the same tokens.

python -m megatron_srp.benchmarks.real.compare RECORDED MODEL OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

from megatron_srp.errors import OutputError, run_command

# Both compute in fp32 on a CPU, in other orders of summation; bf16 rounds by 4e-3.
LOGITS_TOLERANCE = 1e-3  # of the largest logit
LOSS_TOLERANCE = 1e-4  # nats a token


def compare(recorded: Path, model: Path) -> dict[str, Any]:
    """The largest difference of logits, relative to the largest one, and the first losses of both.

    Raises:
        OutputError: when they differ by more than rounding does.
    """
    import torch
    from transformers import AutoModelForCausalLM

    batches: list[dict[str, Any]] = torch.load(recorded)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = network(batches[0]["tokens"][:1]).logits
        theirs = [_mean_loss(network, batch) for batch in batches]
    ours = batches[0]["logits"][..., : expected.shape[-1]]  # Megatron pads the vocabulary
    difference = float((ours - expected).abs().max() / expected.abs().max())
    losses = [float(batch["loss"]) for batch in batches]
    found = {
        "largest_difference_of_logits": difference,
        "losses": losses,
        "losses_of_transformers": theirs,
    }
    if difference > LOGITS_TOLERANCE:
        raise OutputError(f"Megatron's logits differ from transformers' by {difference:.1e} of the largest one")
    if any(abs(a - b) > LOSS_TOLERANCE for a, b in zip(losses, theirs, strict=True)):
        raise OutputError(f"Megatron's first losses are {losses}, and transformers' {theirs}")
    return found


def _mean_loss(network: Any, batch: dict[str, Any]) -> float:
    from torch.nn.functional import cross_entropy

    logits = network(batch["tokens"]).logits
    losses = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="none")
    mask = batch["loss_mask"].flatten()
    return float((losses * mask).sum() / mask.sum())


def main(recorded: str, model: str, out: str) -> None:
    Path(out).write_text(json.dumps(compare(Path(recorded), Path(model)), indent=1))


if __name__ == "__main__":
    run_command(lambda: main(*sys.argv[1:]))
