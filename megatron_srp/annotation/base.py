"""What a guard is: texts in, verdicts out."""

import hashlib
import inspect
import reprlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np

from megatron_srp.errors import GuardError, InputError, UsageError
from megatron_srp.schema import SAFE, SafetyLabel


class StringArray(Protocol):
    """The part of a pyarrow string array that guards use."""

    def __len__(self) -> int: ...

    def to_pylist(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class GuardResult:
    """A guard's result for one text.

        >>> from megatron_srp import GuardResult, SafetyLabel, Verdict
        >>> GuardResult(SafetyLabel(Verdict.UNSAFE, ("Violent",)), score=0.97).label.categories
        ('Violent',)

    Attributes:
        label: verdict and categories; meaningless where `failure` is set.
        score: probability of the verdict, NaN where the guard reports none.
        failure: why there is no verdict; "" where there is one.
        votes: the result of each member of an ensemble, in order; () for a single guard.
        stage: who settled it in a cascade (`store.settling`); "" for another guard.
        harm: the probability of harm that a cascade's front gave, NaN for another guard.
    """

    label: SafetyLabel = SAFE
    score: float = nan
    failure: str = ""
    votes: tuple["GuardResult", ...] = ()
    stage: str = ""
    harm: float = nan


class Guard(ABC):
    """A guard classifies each text independently and keeps no state, so batches may come in any order and
    from several threads.

    A guard overrides `classify`, and `results` too where it has scores or may fail, and the forms for Arrow
    arrays where it can work on those. In a file my_guard.py, this is all that `--guard python:my_guard:PoisonGuard`
    needs:

        >>> import re
        >>> from megatron_srp import Guard, SafetyLabel, Verdict
        >>> SAFE, POISON = SafetyLabel(Verdict.SAFE), SafetyLabel(Verdict.UNSAFE, ("Poison",))
        >>> class PoisonGuard(Guard):
        ...     def __init__(self, words="poison|venom"):
        ...         self.pattern = re.compile(words, re.IGNORECASE)
        ...     def classify(self, texts):
        ...         return [POISON if self.pattern.search(text) else SAFE for text in texts]
        >>> [str(label.verdict) for label in PoisonGuard().classify(["Venom.", "Milk."])]
        ['Unsafe', 'Safe']

    Arguments of the constructor are options of the guard, NAME=VALUE on the command line.

    Attributes:
        constructor_options: that `load_guard` passed to the constructor of a guard from outside the package.
        context_words: how many words before a text `results_in_context` wants to see.
        is_cascade: whether its results say who settled them (`guards.cascade`).
    """

    constructor_options: Mapping[str, Any] = MappingProxyType({})
    context_words: int = 0
    is_cascade: ClassVar[bool] = False

    @cached_property
    def name(self) -> str:
        """Name of this guard, recorded with its verdicts; by default the name of the class."""
        return type(self).__name__

    @cached_property
    def revision(self) -> str:
        """Version of this guard, recorded with its verdicts; by default a hash of the files that define the class.

        The whole file and not the class alone: patterns often are constants of the module.

        Raises:
            UsageError: where the class has no file, as in an interactive session.
        """
        return _source_hash(type(self))

    @property
    def settings(self) -> dict[str, Any]:
        """Everything its verdicts depend on, as JSON values; verdicts with other settings are not mixed with them."""
        own: dict[str, Any] = {"guard": self.name, "revision": self.revision}
        return own | ({"options": dict(self.constructor_options)} if self.constructor_options else {})

    @cached_property
    def incidents(self) -> Counter[str]:
        """Counts of events for the report of a run: texts classified in windows, say."""
        return Counter()

    @property
    def preferred_workers(self) -> int:
        """How many concurrent batches keep it busy."""
        return 1

    @abstractmethod
    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        """A label for each text, in order; raises InputError where a text gets no verdict."""

    def results(self, texts: Sequence[str]) -> list[GuardResult]:
        """A result for each text, in order. A text without a verdict has a `failure`; it does not raise."""
        return [GuardResult(label) for label in checked_labels(self, self.classify(texts), len(texts))]

    def classify_array(self, texts: StringArray) -> list[SafetyLabel]:
        """`classify` for an Arrow array of strings."""
        return self.classify(texts.to_pylist())

    def results_array(self, texts: StringArray) -> list[GuardResult]:
        """`results` for an Arrow array of strings."""
        if type(self).results is not Guard.results:
            return self.results(texts.to_pylist())
        return [GuardResult(label) for label in checked_labels(self, self.classify_array(texts), len(texts))]

    def results_in_context(self, texts: StringArray, contexts: Sequence[str]) -> list[GuardResult]:
        """`results_array` for texts after their `contexts`, of `context_words` words each, which are not judged."""
        return self.results_array(texts)

    def in_mode(self, mode: str) -> "Guard":
        """This guard for a "prompt" or "response"; itself where it makes no difference."""
        return self

    def harm_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float32[N]: how probable it is that each text is not Safe; NaN where the guard has no probability."""
        return np.full(len(texts), nan, np.float32)

    def harm_probabilities_array(self, texts: StringArray) -> np.ndarray:
        """`harm_probabilities` for an Arrow array of strings."""
        return self.harm_probabilities(texts.to_pylist())

    def close(self) -> None:  # noqa: B027 (most have nothing to release)
        """Release processes, connections and device memory."""


def labels_of(results: Sequence[GuardResult]) -> list[SafetyLabel]:
    """The labels; raises InputError at the first failure, which must not count as a verdict."""
    for i, result in enumerate(results):
        if result.failure:
            raise InputError(
                f"the guard gives no verdict on segment {i + 1} of {len(results)}: {result.failure}; classify the "
                "corpus with `srp annotate`, which counts and shows such segments"
            )
    return [result.label for result in results]


def checked_labels(guard: Guard, labels: Any, count: int) -> list[SafetyLabel]:
    """The labels a guard returned, checked to be one for each of `count` texts, as it may be third-party code; raises
    GuardError."""
    return _checked(guard, labels, count, SafetyLabel, "classify")


def checked_results(guard: Guard, results: Any, count: int) -> list[GuardResult]:
    """The same for results."""
    checked = _checked(guard, results, count, GuardResult, "results")
    _checked(guard, [result.label for result in checked], count, SafetyLabel, "results")
    return checked


def _checked(guard: Guard, given: Any, count: int, kind: type, method: str) -> list[Any]:
    wanted = f"return a list with one {kind.__name__} for each text"
    if not isinstance(given, list | tuple):
        raise GuardError(f"guard {guard.name}: {method} returned {type(given).__name__}; {wanted}")
    if len(given) != count:
        raise GuardError(f"guard {guard.name} gave {len(given)} verdicts for {count} texts; {wanted}")
    if not set(map(type, given)) <= {kind}:
        wrong = next(one for one in given if type(one) is not kind)
        raise GuardError(f"guard {guard.name}: {method} returned {reprlib.repr(wrong)} for a text; {wanted}")
    return list(given)


def _source_hash(kind: type) -> str:
    """Hash of the files that define a guard's class and its base classes, except `Guard`."""
    bases = [base for base in kind.__mro__ if issubclass(base, Guard) and base is not Guard]
    found = hashlib.sha256()
    try:
        for file in dict.fromkeys(map(inspect.getfile, bases)):
            found.update(Path(file).read_bytes())
    except (OSError, TypeError):
        raise UsageError(
            f"guard {kind.__name__}: its class has no source file; set a `revision` on the class"
        ) from None
    return found.hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """How a chat guard is run. A guard from outside the package takes only `engine_options`, as its own options.

        >>> from megatron_srp import GuardOptions
        >>> GuardOptions(model="Qwen/Qwen3Guard-Gen-0.6B", threshold=0.4).changed()
        ['model', 'threshold']

    Attributes:
        model: folder or hub name of the weights; the guard's own by default.
        tokenizer: folder or hub name of the tokenizer; the model's by default.
        engine: what runs the model, of `engines.ENGINES`; `engine_options` are its options.
        mode: what a text is classified as, one of the guard's modes: "prompt" or "response".
        user_turn: the user's message before the text, for the response mode; none by default.
        threshold: a text is not safe from this probability on; by default the likeliest verdict counts.
        generate_all: let the model write its answer in full instead of reading the verdict in one pass.
        context_words: how many words of the document before a segment the guard sees, but does not judge.
    """

    model: str | None = None
    tokenizer: str | None = None
    engine: str = "hf"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    mode: str | None = None
    user_turn: str | None = None
    threshold: float | None = None
    generate_all: bool = False
    context_words: int = 0

    def changed(self) -> list[str]:
        """Names of the options that differ from the default."""
        default = GuardOptions()
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(default, f.name)]

    def changed_flags(self) -> list[str]:
        """The same, as command-line flags."""
        names = {"engine_options": "--guard-option", "context_words": "--context-words"}
        return [names.get(name, f"--guard-{name.replace('_', '-')}") for name in self.changed()]
