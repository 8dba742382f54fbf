"""A transformers model as the target of an evaluation.

A white-box attack finds what it needs here: `encode` returns exactly the ids that the network reads,
`network` and `tokenizer` are transformers' own.
"""

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import batched
from pathlib import Path
from typing import Any

import torch

from megatron_srp.evaluation.types import AttackCase, Defence, Response
from megatron_srp.files import checksum, digest
from megatron_srp.generation.engines.hf.batch import CachedBatch
from megatron_srp.generation.engines.hf.model import GuardedModel
from megatron_srp.generation.engines.prompt_judge import judge_prompts, prompt_threshold
from megatron_srp.generation.engines.request import Options, Request, Sampling
from megatron_srp.generation.guard.policy import Generation, GuardPolicy
from megatron_srp.generation.threshold.calibration import FILE as CALIBRATION
from megatron_srp.reflection import ReflectionFormat

_OFF = GuardPolicy("off")
_OF_THE_MODEL = (".json", ".jinja", ".safetensors", ".model")


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How a target answers.

    Attributes:
        form: how it writes reflections; by default as the model's `srp.json` says.
        policy: the guard's, where the target is guarded.
        max_new_tokens: maximum tokens of an answer.
        batch_size: answers generated at a time.
        chat: whether prompts go through the chat template; by default if the tokenizer has one.
        prompt_verdicts_by: folder of a model that judges prompts first where the target is guarded, at its own
            calibrated threshold: an untouched copy, which no fine-tuning of the target can silence.
    """

    form: ReflectionFormat | None = None
    policy: GuardPolicy = field(default_factory=GuardPolicy)
    max_new_tokens: int = 256
    batch_size: int = 16
    chat: bool | None = None
    device: str | None = None
    dtype: str | None = None
    prompt_verdicts_by: str | None = None


class HFTarget:
    """Answers cases with a model folder.

    Attributes:
        network, tokenizer: transformers' own.
        chat: whether prompts go through the chat template.
        form: how the model writes reflections.

    Raises:
        UsageError: when something is missing, or does not match.
    """

    def __init__(self, folder: str, options: TargetOptions | None = None) -> None:
        self.options = options or TargetOptions()
        self.model = GuardedModel(folder, self.options.form, self.options.device, self.options.dtype)
        self.form = self.model.form
        self.network: Any = self.model.network
        self.tokenizer: Any = self.model.tokenizer
        self.chat = bool(self.tokenizer.chat_template) if self.options.chat is None else self.options.chat
        self.name = Path(folder).name
        self.fingerprint = _files_digest(folder)
        self.batch_size = self.options.batch_size
        self._copy: HFTarget | None = None
        self._prompt_judge = self._load_prompt_judge()

    def _load_prompt_judge(self) -> list[Any]:
        """Let the other model judge prompts, if there is one; returns what distinguishes it from others."""
        if (folder := self.options.prompt_verdicts_by) is None:
            return []
        threshold = prompt_threshold(folder, self.options.policy)
        self._copy = HFTarget(folder, replace(self.options, form=None, prompt_verdicts_by=None))
        judge_prompts(self.model, self._copy.model, threshold)
        return [self._copy.fingerprint, threshold]

    def encode(self, case: AttackCase, defence: Defence, max_new_tokens: int | None = None) -> Request:
        """The ids that the network reads for a case, prompt and prefill; raises InputError for too many."""
        guarded = defence is Defence.GUARDED
        if guarded and case.as_ids:
            written = self.encode(case, Defence.UNGUARDED, max_new_tokens)
            escaped = self.encode(replace(case, prefill="", as_ids=False), defence, max_new_tokens)
            return replace(
                escaped,
                prefill=written.prefill,
                max_new_tokens=min(escaped.max_new_tokens, written.max_new_tokens),
            )
        options = Options(
            self.options.policy if guarded else _OFF,
            Sampling(),
            max_new_tokens or self.options.max_new_tokens,
            escape=guarded,
        )
        if not self.chat:
            return self.model.complete(case.prompt, options, case.prefill)
        return self.model.chat([{"role": "user", "content": case.prompt}], options, case.prefill)

    def with_policy(self, policy: GuardPolicy) -> "HFTarget":
        """The same model, loaded once, under another policy of the guard."""
        other = copy(self)
        other.options = replace(self.options, policy=policy)
        return other

    def judge_of_prompts(self) -> "HFTarget":
        """Whose forced reflection decides about a prompt: the copy that `prompt_verdicts_by` names, else the target."""
        return self._copy.with_policy(self.options.policy) if self._copy else self

    def has_room_for(self, text: str) -> bool:
        """Whether a text leaves half of the model's length to an attack's own words and an answer."""
        length = len(self.tokenizer(text, add_special_tokens=False).input_ids)
        return 2 * length <= self.model.max_length

    def generate(
        self, cases: Sequence[AttackCase], defence: Defence, max_new_tokens: int | None = None
    ) -> list[Response]:
        """See `TargetModel`. Answers are made `batch_size` at a time, those of similar length together."""
        requests = [self.encode(case, defence, max_new_tokens) for case in cases]
        responses: dict[int, Response] = {}
        order = sorted(range(len(cases)), key=lambda i: len(requests[i].prompt))
        for rows in batched(order, self.options.batch_size):
            begun = time.perf_counter()
            found = self.model.generator.generate([requests[i] for i in rows])
            seconds = (time.perf_counter() - begun) / len(rows)
            responses |= {i: self._response(g, seconds) for i, g in zip(rows, found, strict=True)}
        return [responses[i] for i in range(len(cases))]

    @torch.inference_mode()
    def classify(self, texts: Sequence[tuple[str, str | None]]) -> list[tuple[float, float, float]]:
        """P(Safe), P(Controversial), P(Unsafe) that a forced reflection reads, for (prompt, None) after the
        prompt and for (prompt, response) after the response.

        Raises:
            InputError: for a text that is longer than the model takes.
        """
        cases = [AttackCase("", prompt, response or "") for prompt, response in texts]
        requests = [self.encode(case, Defence.GUARDED, 1) for case in cases]
        order = sorted(range(len(texts)), key=lambda i: len(requests[i].prompt) + len(requests[i].prefill))
        found: dict[int, tuple[float, float, float]] = {}
        for rows in batched(order, self.options.batch_size):
            batch = CachedBatch(self.network, len(rows))
            batch.feed([[*requests[i].prompt, *requests[i].prefill] for i in rows])
            read = batch.verdicts(self.model.tree).tolist()
            found |= {i: (s, c, u) for i, (s, c, u) in zip(rows, read, strict=True)}
        return [found[i] for i in range(len(texts))]

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

    def reflection_tokens(self, response: Response) -> int:
        """How many of the answer's tokens belong to reflections, the end-of-text after one that stops included."""
        raw = response.raw
        spans = [(len(raw[:a].encode()), len(raw[:b].encode())) for a, b, _ in self.form.find(raw)]
        count, at, inside = 0, 0, False
        for piece in self.model.pieces(response.tokens):
            if piece:  # a token without text belongs to the one before it
                inside = any(start - 1 <= at < end for start, end in spans)
            count += inside
            at += len(piece)
        return count

    def settings(self, defence: Defence) -> dict[str, Any]:
        """See `TargetModel`. The size of batches and the device change rounding only, and are left out."""
        guarded = defence is Defence.GUARDED
        policy = self.options.policy if guarded else _OFF
        return {
            "form": self.form.describe(),
            "policy": {name: getattr(policy, name) for name in policy.__slots__} | {"stop_at": sorted(policy.stop_at)},
            "max_new_tokens": self.options.max_new_tokens,
            "chat": self.chat,
            "dtype": str(self.network.dtype),
            **({"prompt_verdicts_by": self._prompt_judge} if guarded and self._prompt_judge else {}),
        }


def _files_digest(folder: str) -> str:
    """Of all weights, configurations and tokenizer files; the calibration is a setting of the guard."""
    path = Path(folder)
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(folder, local_files_only=True, allow_patterns=["*.json", "*.safetensors"]))
    files = sorted(file for file in path.iterdir() if file.suffix in _OF_THE_MODEL and file.name != CALIBRATION)
    return digest({file.name: checksum(file) for file in files})
