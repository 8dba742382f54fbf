"""Engines run a language model for a guard: a table of names, each imported when it is first used.

Installed packages may add engines (`extensions`). A new engine of this package is a class in a module of its own and
one line in `ENGINES`.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any, ClassVar

import numpy as np

from megatron_srp.annotation.extensions import (
    ENGINE_GROUP,
    PREFIX,
    check_options,
    import_target,
    installed_names,
    own_target,
)
from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.tokenization.base import TokenBatch

ENGINES = {
    "hf": "megatron_srp.annotation.engines.hf_engine:HFEngine",
    "vllm": "megatron_srp.annotation.engines.vllm_engine:VLLMEngine",
    "http": "megatron_srp.annotation.engines.http_engine:HTTPEngine",
    "ray": "megatron_srp.annotation.engines.ray_engine:RayEngine",
}


@dataclass(frozen=True, slots=True)
class Prompts(Sequence[np.ndarray]):
    """N prompts with a common prefix: `prefix` int32[P], and the rest of each, `rests` int32, flat.

    As a sequence it yields the whole prompts, int32 each. An engine that can share work on the prefix
    reads the two parts.
    """

    prefix: np.ndarray
    rests: TokenBatch

    def __len__(self) -> int:
        return len(self.rests)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return np.concatenate([self.prefix, self.rests[i % len(self)]])

    def take(self, rows: Sequence[int] | np.ndarray) -> "Prompts":
        """The prompts `rows`, in that order."""
        return Prompts(self.prefix, TokenBatch.from_arrays([self.rests[int(row)] for row in rows]))

    def followed_by(self, ids: Sequence[int] | np.ndarray) -> "Prompts":
        """Every prompt followed by these tokens."""
        n, s = len(self), len(ids)
        offsets = self.rests.offsets + s * np.arange(n + 1)
        tokens = np.empty(offsets[-1], np.int32)
        added = np.zeros(len(tokens), bool)
        places = (offsets[1:, None] - s) + np.arange(s)
        added[places] = True
        tokens[places] = np.array(ids, np.int32)
        tokens[~added] = self.rests.tokens
        return Prompts(self.prefix, TokenBatch(tokens, offsets))


class Engine(ABC):
    """A language model that continues prompts of token ids. Calls may come from several threads.

    Attributes:
        requires: packages it imports besides the project's own, from the pip extra `annotate`.
        max_length: most tokens in a prompt together with what is generated after it.
        revision: of the weights, where known.
        callers: number of threads that keep it busy: some wait for it while another builds the next prompts.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    max_length: int
    revision: str = ""
    callers: int = 2

    @cached_property
    def incidents(self) -> Counter[str]:
        """Counts of errors that passed or cost a prompt its answer, for the report of a run."""
        return Counter()

    @abstractmethod
    def next_token_logprobs(self, prompts: Prompts, candidates: Sequence[int]) -> np.ndarray:
        """float32[N, C]: log-probabilities, over the whole vocabulary, of C tokens directly after each of
        the N prompts. A row of NaN is a prompt that got no answer. An engine that knows only which candidate
        the model would write returns 0 for that one and -inf for the others."""

    @abstractmethod
    def generate(self, prompts: Prompts, max_new_tokens: int, stop_ids: Sequence[int]) -> list[np.ndarray]:
        """int32 ids of the greedy continuation of each prompt, up to but not including the first stop token."""

    def close(self) -> None:  # noqa: B027 (most have nothing to release)
        """Release processes, connections and device memory."""


def load_engine(name: str, model: str, tokenizer: str | None = None, **options: Any) -> Engine:
    """The engine of that name, with `model` loaded: a folder, or a name that the engine knows.

    Args:
        tokenizer: folder or hub name of the guard's tokenizer, for engines that exchange text.
        options: of the engine.

    Raises:
        UsageError: for an unknown engine or option, or packages that are not installed.
    """
    kind = _engine_class(name)
    if tokenizer and "tokenizer" in signature(kind).parameters:
        options.setdefault("tokenizer", tokenizer)
    check_options(kind, options, f"--guard-engine {name}", skip=1)  # the first is the model
    return kind(model, **options)  # type: ignore[call-arg]


def _engine_class(name: str) -> type[Engine]:
    if name not in ENGINES:
        return _outside_class(name)
    module, _, attribute = ENGINES[name].partition(":")
    try:
        kind: type[Engine] = getattr(import_module(module), attribute)
        missing = [package for package in kind.requires if find_spec(package) is None]
    except ModuleNotFoundError as error:
        missing = [str(error.name)]
    if missing:
        extra = "ray" if "ray" in missing else "annotate"
        raise UsageError(
            f"--guard-engine {name} needs {', '.join(missing)}, not installed here; pip install 'megatron-srp[{extra}]'"
        )
    return kind


def _outside_class(name: str) -> type[Engine]:
    """An engine of an installed package, or python:MODULE:CLASS; raises UsageError for an unknown name."""
    installed = installed_names(ENGINE_GROUP)
    if not name.startswith(PREFIX) and name not in installed:
        raise UsageError(f"unknown engine {name!r}; {did_you_mean(name, [*ENGINES, *installed])}")
    target = own_target(name) if name.startswith(PREFIX) else installed[name]
    kind = import_target(target, f"--guard-engine {name}")
    if not isinstance(kind, type) or not issubclass(kind, Engine):
        raise UsageError(f"--guard-engine {name}: not a subclass of megatron_srp.annotation.engines.Engine")
    return kind
