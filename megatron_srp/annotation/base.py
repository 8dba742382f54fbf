"""What a guard is: texts in, judgements out."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import nan
from typing import Any, Protocol

import numpy as np

from megatron_srp.errors import InputError
from megatron_srp.schema import SAFE, SafetyLabel


class StringArray(Protocol):
    """The part of a pyarrow string array that guards use."""

    def __len__(self) -> int: ...

    def to_pylist(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class GuardResult:
    """What a guard says of one text.

    Attributes:
        label: verdict and categories; meaningless where there is a `failure`.
        score: probability of the verdict, NaN where the guard gives none.
        failure: why no verdict could be had, "" where one was.
        votes: what each member of an ensemble said, in its order; () for a single guard.
    """

    label: SafetyLabel = SAFE
    score: float = nan
    failure: str = ""
    votes: tuple["GuardResult", ...] = ()


class Guard(ABC):
    """A guard that judges texts one by one and remembers nothing of them, so that batches may come in any
    order and from several threads.

    A guard overrides `classify`, or `judge` too where it has scores or may fail, and the forms for Arrow
    arrays where it can work on those.

    Attributes:
        name, revision: which guard this is; both are written beside its verdicts.
    """

    name: str
    revision: str

    @property
    def settings(self) -> dict[str, Any]:
        """All that its verdicts depend on, as JSON values: verdicts with other settings are other verdicts."""
        return {"guard": self.name, "revision": self.revision}

    @cached_property
    def incidents(self) -> Counter[str]:
        """What else was met and counted, for the report of a run: texts judged in windows, say."""
        return Counter()

    @property
    def preferred_workers(self) -> int:
        """Batches judged at once that keep it busy."""
        return 1

    @abstractmethod
    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        """A label for each text, in order; raises InputError where no verdict can be had."""

    def judge(self, texts: Sequence[str]) -> list[GuardResult]:
        """A judgement of each text, in order. A text that gets no verdict says why and raises nothing."""
        return [GuardResult(label) for label in self.classify(texts)]

    def classify_array(self, texts: StringArray) -> list[SafetyLabel]:
        """`classify` for an Arrow array of strings."""
        return self.classify(texts.to_pylist())

    def judge_array(self, texts: StringArray) -> list[GuardResult]:
        """`judge` for an Arrow array of strings."""
        if type(self).judge is not Guard.judge:
            return self.judge(texts.to_pylist())
        return [GuardResult(label) for label in self.classify_array(texts)]

    def in_mode(self, mode: str) -> "Guard":
        """This guard as it judges "prompt" or "response"; itself where it knows no difference."""
        return self

    def harm_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float32[N]: how probable it is that each text is not Safe; NaN where the guard cannot say."""
        return np.full(len(texts), nan, np.float32)

    def close(self) -> None:  # noqa: B027 (most have nothing to give back)
        """Give back processes, connections and device memory."""


def labels_of(judged: Sequence[GuardResult]) -> list[SafetyLabel]:
    """The labels; raises InputError at the first failure, which must not pass for a verdict."""
    for i, one in enumerate(judged):
        if one.failure:
            raise InputError(
                f"the guard gives no verdict on segment {i + 1} of {len(judged)}: {one.failure}; judge the corpus "
                "with `srp annotate`, which counts and shows such segments"
            )
    return [one.label for one in judged]


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """How a chat guard is run; other guards take none of it.

    Attributes:
        model: folder or hub name of the weights; the guard's own by default.
        tokenizer: folder or hub name of the tokenizer; the model's by default.
        engine: what runs the model, of `engines.ENGINES`; `engine_options` are its own.
        mode: as what a text is judged, of the modes the guard has: "prompt" or "response".
        user_turn: what a user says before the text, for the response mode; nothing by default.
        threshold: a text is not safe from this probability on; by default the likeliest verdict is given.
        generate_all: let the model write its answer in full instead of reading the verdict in one pass.
    """

    model: str | None = None
    tokenizer: str | None = None
    engine: str = "hf"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    mode: str | None = None
    user_turn: str | None = None
    threshold: float | None = None
    generate_all: bool = False

    def changed(self) -> list[str]:
        """Names of what differs from the default."""
        default = GuardOptions()
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(default, f.name)]

    def changed_flags(self) -> list[str]:
        """The same, as the flags that commands have for them."""
        names = {"engine_options": "option"}
        return [f"--guard-{names.get(name, name).replace('_', '-')}" for name in self.changed()]
