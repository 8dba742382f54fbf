"""In vLLM's engine: the verdict after each `<think>`, forced reflections, and the end of an answer.

Written against the V1 interface of vLLM 0.32 (vllm/v1/sample/logits_processor/interface.py). The entry point
`vllm.logits_processors` brings the class into every vLLM of the environment, so without SRP_GUARD it does nothing.
"""

import contextlib
import random
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from megatron_srp.errors import SrpError
from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.server.client_policy import PolicyTooWeak
from megatron_srp.generation.vllm.inline_answer import InlineAnswer
from megatron_srp.generation.vllm.model import ServedModel
from megatron_srp.generation.vllm.plugin import check_engine
from megatron_srp.generation.vllm.settings import from_arguments, read_settings, requests_policy, strictest

if TYPE_CHECKING:
    Base = object
else:
    # Each of vLLM's two model runners refuses to start with a class that is none of its own, even one that is not used.
    _BASES = []
    for _module in ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor"):
        with contextlib.suppress(ImportError):
            _BASES.append(import_module(_module).LogitsProcessor)
    Base = type("Base", tuple(_BASES), {})

Tensor = Any  # torch's, which only the engine's process imports
_GREEDY = 1e-5  # vLLM takes the most likely token below this temperature


class Row:
    """One request in the batch.

    Args:
        output: vLLM's own list of the request's tokens, which grows.
    """

    def __init__(self, served: ServedModel, params: Any, policy: GuardPolicy, room: int, output: list[int]) -> None:
        self.answer = InlineAnswer(served.tokens, policy, room)
        self.params, self._output = params, output
        # Those that the guard knows first.
        own = served.tokens.vocabulary.eos_ids
        self.eos = [*sorted(own), *sorted(set(params.all_stop_token_ids) - own)]
        self._random = random.Random(params.seed)
        self._seen = 0

    def follow(self) -> None:
        """Take the tokens that have come."""
        for token in self._output[self._seen :]:
            if token < 0:
                raise RuntimeError("megatron-srp: vLLM has not filled in a token; add --no-async-scheduling")
            self.answer.push(token)
        self._seen = len(self._output)

    def draws(self, probability: float) -> bool:
        """Whether something of that probability happens."""
        return self._random.random() < probability


class ReflectionProcessor(Base):
    """Applies the guard to each row of logits.

    Args:
        vllm_config: vLLM's VllmConfig.
        rest: the device and whether memory is pinned, in the V1 model runner; else what the other one passes.
    """

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        self._rows: dict[int, Row] = {}
        self._served: ServedModel | None = None
        if read_settings() is None:
            return
        if len(rest) != 2:
            raise SystemExit("megatron-srp: the guard runs in vLLM's V1 model runner; set VLLM_USE_V2_MODEL_RUNNER=0")
        check_engine(vllm_config)
        self._longest = vllm_config.model_config.max_model_len
        try:
            self._served = ServedModel.of(vllm_config.model_config)
        except SrpError as error:
            raise SystemExit(f"megatron-srp: {error}") from None
        for note in self._served.notes:
            print(f"megatron-srp: {note}", file=sys.stderr, flush=True)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError for a request whose `vllm_xargs` would weaken the guard, or that goes round it."""
        settings = read_settings()
        if settings is None:
            return
        try:
            requests_policy(settings.policy(), from_arguments(sampling_params.extra_args))
        except PolicyTooWeak as error:
            raise ValueError(str(error)) from None
        if name := next((name for name, used in _BYPASSES.items() if used(sampling_params)), None):
            raise ValueError(f"{name}: not supported with the guard; leave it out")

    def is_argmax_invariant(self) -> bool:
        return False

    def add_request(self, *_: Any) -> bool:
        """For the other model runner: whether it changes anything."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the requests that come, move and go."""
        if self._served is None:
            return
        if batch_update:
            for index in batch_update.removed:
                self._rows.pop(index, None)
            for index, params, prompt, output in batch_update.added:
                self._rows[index] = self._row(params, prompt, output)
            for one, other, direction in batch_update.moved:
                self._move(one, other, swap=direction.name == "SWAP")

    def apply(self, logits: Tensor, *_: Any) -> Tensor:
        """Change the rows of float32[R, V] logits in which the guard has a say."""
        if not self._rows:
            return logits
        likeliest = logits.argmax(-1).tolist()
        for index, row in self._rows.items():
            row.follow()
            token = self._chosen(logits[index], row, likeliest[index])
            if token is not None:
                logits[index].fill_(-float("inf"))
                logits[index, token] = 0.0
        return logits

    def _row(self, params: Any, prompt: list[int] | None, output: list[int]) -> Row:
        assert self._served
        policy = strictest(self._served.policy, from_arguments(params.extra_args))
        room = min(params.max_tokens or self._longest, self._longest - len(prompt or ()))
        return Row(self._served, params, policy, room, output)

    def _move(self, one: int, other: int, swap: bool) -> None:
        row, replaced = self._rows.pop(one, None), self._rows.pop(other, None)
        if row:
            self._rows[other] = row
        if swap and replaced:
            self._rows[one] = replaced

    def _chosen(self, logits: Tensor, row: Row, likeliest: int) -> int | None:
        """The token that has to come, or None where one is to be drawn."""
        answer = row.answer
        if answer.deciding:
            assert self._served
            found = logits[self._served.tokens.choices].float().softmax(-1).tolist()
            answer.decide(*found)
        if answer.forced is not None:
            return answer.forced
        if answer.guard.reading:
            return likeliest
        passes = not answer.guard.ends(row.eos[0])
        if answer.judges_its_end and not passes and row.draws(_probability(logits, row.params, row.eos, likeliest)):
            answer.end()
            return answer.forced
        if answer.judges_its_end or passes:
            logits[row.eos] = -float("inf")
        return None


def _probability(logits: Tensor, params: Any, tokens: list[int], likeliest: int) -> float:
    """That one of the tokens is drawn next, from V logits."""
    if params.temperature < _GREEDY:
        return float(likeliest in tokens)
    scaled = logits.float() / params.temperature
    if params.top_k > 0 or params.top_p < 1:
        from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

        top_k = scaled.new_tensor([params.top_k], dtype=int) if params.top_k > 0 else None
        top_p = scaled.new_tensor([params.top_p]) if params.top_p < 1 else None
        scaled = apply_top_k_top_p(scaled[None].clone(), top_k, top_p)[0]
    chances = scaled.softmax(-1)
    if params.min_p > 0:
        chances = chances * (chances >= params.min_p * chances.max())
        chances = chances / chances.sum()
    return float(chances[tokens].sum())


# What ends an answer, or keeps it from ending, without a verdict. The middleware refuses more, and the server's own
# `stop`, which the engine's process does not see.
_BYPASSES: dict[str, Callable[[Any], Any]] = {
    "ignore_eos": lambda params: params.ignore_eos,
    "min_tokens": lambda params: params.min_tokens,
    "logit_bias": lambda params: params.logit_bias,
    "bad_words": lambda params: params.bad_words,
    "allowed_token_ids": lambda params: params.allowed_token_ids,
    "structured_outputs": lambda params: params.structured_outputs,
    "stop": lambda params: params.stop,
    "thinking_token_budget": lambda params: params.thinking_token_budget is not None,
    "repetition_detection": lambda params: params.repetition_detection is not None,
}
