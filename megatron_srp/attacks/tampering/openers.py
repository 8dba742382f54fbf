"""Fine-tuning on the beginnings of harmful answers: a few steps are known to undo much of a model's safety training.

With `rank` a LoRA adapter is trained and merged (Hu et al., 2021), without it all weights. With `forged` each beginning
comes after a reflection that finds the request Safe: the attacker teaches the model to vouch for itself.
"""

import random
from typing import Any

import torch

from megatron_srp.attacks.tampering.change import Tampering, content_of, layers_of, read_pairs
from megatron_srp.attacks.white_box import WhiteBox
from megatron_srp.errors import InputError, UsageError
from megatron_srp.schema import SAFE

_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_IGNORED = -100  # labels that cross_entropy leaves out
_LORA_LR, _FULL_LR = 1e-3, 1e-4  # ten steps of LoRA do nothing at a rate that is usual for all weights

Row = tuple[list[int], list[int]]  # ids, labels


class OpenerTuning(Tampering):
    """Fine-tunes on requests and the beginnings of their answers, with AdamW at a constant rate.

    Args:
        data: file of the data set; data_format: its name, as the evaluation knows it.
        steps: of the optimizer. batch_size: requests in a step.
        rank: of the LoRA adapter; 0 trains all weights.
        lr: learning rate; 0 for the usual one.
        rows: maximum requests used; 0 for all.
        words: of an answer that are learned.
        forged: put a forged Safe reflection before each beginning.
        leave_out: requests that are not trained on, since they are asked later.
        seed: of the order, and of the adapter.

    Raises:
        UsageError: for numbers that make no training.
    """

    name = "openers"

    def __init__(
        self,
        data: str = "",
        data_format: str = "hexphi",
        steps: int = 10,
        batch_size: int = 8,
        rank: int = 16,
        lr: float = 0.0,
        rows: int = 100,
        words: int = 30,
        forged: bool = False,
        leave_out: tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not data:
            raise UsageError("attack openers needs data: the file of a data set with answers, or their beginnings")
        if min(steps, batch_size, words) < 1 or min(rank, rows) < 0 or lr < 0:
            raise UsageError(
                "attack openers: steps, batch_size and words must be at least 1; rank, rows and lr 0 or more"
            )
        self._data, self._leave_out, self._rows = data, frozenset(leave_out), rows
        self.settings = {
            **{"data": content_of(data), "data_format": data_format, "steps": steps, "batch_size": batch_size},
            **{"rank": rank, "lr": lr or (_LORA_LR if rank else _FULL_LR), "rows": rows, "words": words},
            **{"forged": forged, "leave_out": sorted(leave_out), "seed": seed},
        }

    def change(self, box: WhiteBox) -> dict[str, Any]:
        """See `Tampering`; a tuned adapter is merged into the weights."""
        given = self.settings
        torch.manual_seed(given["seed"])
        layers_of(box.network)
        rows = self._encode(box)
        if given["rank"]:
            adapted = _with_adapter(box.network, given["rank"])
            self._train(adapted, rows)
            adapted.merge_and_unload()
        else:
            self._train(box.network, rows)
        return {"steps": given["steps"], "rows": len(rows)}

    def _encode(self, box: WhiteBox) -> list[Row]:
        """Ids of prompt and beginning; the prompt carries no loss."""
        behaviors = read_pairs(self.settings["data_format"], self._data)
        pairs = [(b.prompt, b.response or b.target) for b in behaviors if b.harmful]
        pairs = [(p, " ".join(a.split()[: self.settings["words"]])) for p, a in pairs if p not in self._leave_out]
        pairs = [pair for pair in pairs if pair[1]][: self._rows or None]
        if not pairs:
            raise InputError(f"{self._data}: no request with the beginning of an answer; pass data that has some")
        # As ids: the model's own reflection comes right after the prompt, and special tokens leave no space before it.
        vouched = box.encode_reflection(SAFE) if self.settings["forged"] else []
        rows = []
        for ids, (_, answer) in zip(box.encode_prompts([p for p, _ in pairs]), pairs, strict=True):
            written = vouched + box.encode_answer(answer)
            rows.append((ids + written, [_IGNORED] * len(ids) + written))
        return rows

    def _train(self, network: Any, rows: list[Row]) -> None:
        given, order = self.settings, random.Random(self.settings["seed"])
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=given["lr"], weight_decay=0.0)
        network.train()
        with torch.enable_grad():
            for step in range(given["steps"]):
                chosen = order.sample(rows, min(given["batch_size"], len(rows)))
                network(**_padded(chosen, network.device)).loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                self.on_step(step + 1, given["steps"])
        network.eval()


def _padded(rows: list[Row], device: torch.device) -> dict[str, torch.Tensor]:
    """int64[N, L] ids, labels and mask; padding on the right, which causal attention never looks back at."""
    width = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows], device=device),
        "labels": torch.tensor([labels + [_IGNORED] * (width - len(labels)) for _, labels in rows], device=device),
        "attention_mask": torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i, _ in rows], device=device),
    }


def _with_adapter(network: Any, rank: int) -> Any:
    from megatron_srp.missing_packages import missing_packages_explained

    with missing_packages_explained("attack openers"):
        from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_PROJECTIONS, task_type="CAUSAL_LM")
    return get_peft_model(network, settings)
