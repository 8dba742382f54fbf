"""A model of transformers as the target of an evaluation.

An attack that looks inside finds here what it needs: `encode` gives the very ids that the network reads,
`network` and `tokenizer` are those of transformers.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import batched
from pathlib import Path
from typing import Any

from megatron_srp.durable import checksum
from megatron_srp.evaluation.types import AttackCase, Defence, Response
from megatron_srp.generation.hf import Request
from megatron_srp.generation.hf_model import GuardedModel, Options
from megatron_srp.generation.hf_sampling import Sampling
from megatron_srp.generation.policy import Generation, GuardPolicy
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.tokenization.base import digest

_OFF = GuardPolicy("off")


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How a target answers.

    Attributes:
        form: how it writes reflections.
        policy: of the guard, where it is guarded.
        max_new_tokens: tokens of an answer at most.
        batch_size: answers at a time.
        chat: whether prompts go through the chat template; by default where there is one.
    """

    form: ReflectionFormat = field(default_factory=ReflectionFormat)
    policy: GuardPolicy = field(default_factory=GuardPolicy)
    max_new_tokens: int = 256
    batch_size: int = 16
    chat: bool | None = None
    device: str | None = None
    dtype: str | None = None


class HFTarget:
    """Answers cases with a model folder.

    Attributes:
        network, tokenizer: transformers' own.
        chat: whether prompts go through the chat template.

    Raises:
        UsageError: when something is not there, or does not fit.
    """

    def __init__(self, folder: str, options: TargetOptions | None = None) -> None:
        self.options = options or TargetOptions()
        self.model = GuardedModel(folder, self.options.form, self.options.device, self.options.dtype)
        self.network, self.tokenizer = self.model.network, self.model.tokenizer
        self.chat = bool(self.tokenizer.chat_template) if self.options.chat is None else self.options.chat
        self.name = Path(folder).name
        self.fingerprint = digest({"weights": _files_digest(folder), "options": self._described()})

    def encode(self, case: AttackCase, defence: Defence, max_new_tokens: int | None = None) -> Request:
        """The ids that the network reads for a case, prompt and prefill; raises InputError for too many."""
        guarded = defence is Defence.GUARDED
        options = Options(
            self.options.policy if guarded else _OFF,
            Sampling(),
            max_new_tokens or self.options.max_new_tokens,
            escape=guarded,
        )
        if not self.chat:
            return self.model.complete(case.prompt, options, case.prefill)
        return self.model.chat([{"role": "user", "content": case.prompt}], options, case.prefill)

    def generate(
        self, cases: Sequence[AttackCase], defence: Defence, max_new_tokens: int | None = None
    ) -> list[Response]:
        """See `TargetModel`. Answers are made `batch_size` at a time, those of like length together."""
        requests = [self.encode(case, defence, max_new_tokens) for case in cases]
        order = sorted(range(len(cases)), key=lambda i: len(requests[i].prompt))
        responses: dict[int, Response] = {}
        for rows in batched(order, self.options.batch_size):
            begun = time.perf_counter()
            found = self.model.generator.generate([requests[i] for i in rows])
            seconds = (time.perf_counter() - begun) / len(rows)
            responses |= {i: self._response(g, seconds) for i, g in zip(rows, found, strict=True)}
        return [responses[i] for i in range(len(cases))]

    def _response(self, generation: Generation, seconds: float) -> Response:
        return Response(
            generation.text,
            self.model.decode(generation.tokens),
            generation.reflections,
            generation.stop_reason,
            generation.tokens,
            generation.forced,
            seconds,
        )

    def _described(self) -> dict[str, Any]:
        """All that an answer depends on beside the weights. The batch's size and the device change rounding only."""
        policy = self.options.policy
        return {
            "form": self.options.form.describe(),
            "policy": {name: getattr(policy, name) for name in policy.__slots__} | {"stop_at": sorted(policy.stop_at)},
            "max_new_tokens": self.options.max_new_tokens,
            "chat": self.chat,
            "dtype": str(self.network.dtype),
        }


def _files_digest(folder: str) -> str:
    """Of all weights, configurations and tokenizer files."""
    path = Path(folder)
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(folder, local_files_only=True, allow_patterns=["*.json", "*.safetensors"]))
    files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jinja", ".safetensors", ".model"))
    return digest({file.name: checksum(file) for file in files})
