"""What a guard is: texts in, labels out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from megatron_srp.schema import SafetyLabel


class StringArray(Protocol):
    """The part of a pyarrow string array that guards use."""

    def __len__(self) -> int: ...

    def to_pylist(self) -> list[str]: ...


class SafetyClassifier(ABC):
    """A guard that judges texts one by one and remembers nothing, so that batches may come in any
    order and from several threads.

    Attributes:
        name, revision: which guard this is; both are written beside its verdicts.
    """

    name: str
    revision: str

    @abstractmethod
    def classify(self, texts: Sequence[str]) -> list[SafetyLabel]:
        """A label for each text, in order."""

    def classify_array(self, texts: StringArray) -> list[SafetyLabel]:
        """`classify` for an Arrow array of strings; a guard that can work on one overrides this."""
        return self.classify(texts.to_pylist())
