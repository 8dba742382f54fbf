"""Who settled each segment of a part that a cascade judged.

A stage is `front` (settled by the front), `audit` (the front would have, but the back judged it all the same) or
`back`; of a nested cascade, the stages from the outside in, such as `back>front`. `hand` is a verdict changed by hand.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from megatron_srp.schema import SafetyLabel

FRONT, AUDIT, BACK, HAND = "front", "audit", "back", "hand"
NESTED = ">"


@dataclass(frozen=True, slots=True)
class Settling:
    """Of S segments.

    Attributes:
        stages: str[S].
        harms: float32[S] the front's probabilities of harm.
    """

    stages: np.ndarray
    harms: np.ndarray

    @classmethod
    def join(cls, settlings: Sequence["Settling | None"]) -> "Settling | None":
        """Those of several batches, one after the other."""
        given = [one for one in settlings if one is not None]
        if not given:
            return None
        return cls(np.concatenate([one.stages for one in given]), np.concatenate([one.harms for one in given]))

    def with_changed(self, rows: np.ndarray, new: "Settling | None") -> "Settling":
        """The same with the segments int64[K] `rows` settled again; by hand where `new` is None."""
        stages, harms = self.stages.astype(object), self.harms.copy()
        stages[rows] = HAND if new is None else new.stages
        if new is not None:
            harms[rows] = new.harms
        return replace(self, stages=stages.astype(str), harms=harms)

    @property
    def below_threshold(self) -> np.ndarray:
        """bool[S]: settled by the outermost front, or audited although it would have been."""
        outer = np.array([stage.partition(NESTED)[0] for stage in self.stages.tolist()], dtype="U5")
        return (outer == FRONT) | (outer == AUDIT)

    @property
    def highest_harm(self) -> float:
        """The highest probability of harm of these segments; -1 without any."""
        return float(self.harms[self.below_threshold].max(initial=-1.0))

    def at_or_above(self, threshold: float) -> np.ndarray:
        """int64[K]: which of these segments have a probability of harm of at least `threshold`."""
        return np.flatnonzero(self.below_threshold & ~(self.harms < threshold))

    def counts(self, codes: np.ndarray, labels: Sequence[SafetyLabel]) -> Counter[str]:
        """Numbers of segments by "STAGE VERDICT"; the verdict is `none` where it failed."""
        names = [*(str(label.verdict) for label in labels), "none"]  # the code of a failure selects the last
        return Counter(
            f"{stage} {names[code]}" for stage, code in zip(self.stages.tolist(), codes.tolist(), strict=True)
        )

    def columns(self) -> dict[str, pa.Array]:
        """The part's columns: `stages` and `front_harms`."""
        return {"stages": pa.array(self.stages, pa.string()), "front_harms": pa.array(self.harms, pa.float32())}


def inner_counts(counts: Mapping[str, int]) -> Counter[str]:
    """`Settling.counts` as the cascade sees them that is the back of the counted one."""
    found: Counter[str] = Counter()
    for name, count in counts.items():
        outer, nested, inner = name.partition(NESTED)
        if nested and outer in (AUDIT, BACK):
            found[inner] += count
    return found
