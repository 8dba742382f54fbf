"""The settings: which texts a model is pretrained on, what is written after them, and what reflections say."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from megatron_srp.medsafetyworld.world.draws import Draws
from megatron_srp.medsafetyworld.world.phrases import FILLER, TAGS


class Direction(StrEnum):
    """What a text states: from cause to outcome, from outcome to cause, or that both occur together."""

    FORWARD = "forward"
    REVERSE = "reverse"
    CO_OCCURRENCE = "co-occurrence"


class Setting(StrEnum):
    """A corpus; `TREATMENTS` says what it is made of. The first five are the paper's, the others controls."""

    BASELINE = "baseline"
    FILTERING = "filtering"
    FILTERING_PLUS = "filtering-plus"
    REWRITE = "rewrite"
    SRP = "srp"
    TAGS = "filtering-tags"
    FILLER = "filtering-filler"
    QUESTIONS = "srp-questions"


@dataclass(frozen=True, slots=True)
class Treatment:
    """What a setting does to the texts. To add a setting: a name in `Setting`, and one of these.

    Attributes:
        leaves_out: `harmful` texts (in reverse direction with an unsafe outcome), all texts with an `unsafe`
            outcome, or nothing.
        rewrites: the harmful texts call their outcome dangerous.
        after: words at the end of a text with a safe outcome, and with an unsafe one.
        verdicts: every text has a verdict, for a reflection.
        questions: as many questions as this share of the texts come with them, unanswered.
    """

    leaves_out: str = ""
    rewrites: bool = False
    after: tuple[str, str] = ("", "")
    verdicts: bool = False
    questions: float = 0.0

    def kept(self, harmful: np.ndarray, unsafe: np.ndarray) -> np.ndarray:
        """bool[N]: which of N texts the setting has, by bool[N] whether each is harmful, has an unsafe outcome."""
        return ~{"harmful": harmful, "unsafe": unsafe, "": np.zeros(len(unsafe), bool)}[self.leaves_out]

    def changed(self, harmful: np.ndarray, unsafe: np.ndarray) -> np.ndarray:
        """bool[N]: which of N texts have the second of their two wordings."""
        return harmful if self.rewrites else unsafe


TREATMENTS = {
    Setting.BASELINE: Treatment(),
    Setting.FILTERING: Treatment(leaves_out="harmful"),
    Setting.FILTERING_PLUS: Treatment(leaves_out="unsafe"),
    Setting.REWRITE: Treatment(rewrites=True),
    Setting.SRP: Treatment(leaves_out="harmful", verdicts=True),
    # The label's information without the form of a reflection.
    Setting.TAGS: Treatment(leaves_out="harmful", after=TAGS),
    # The length of a reflection without information.
    Setting.FILLER: Treatment(leaves_out="harmful", after=(FILLER, FILLER)),
    # Pretraining judges questions as post-training does: by what they ask for, not by their outcome alone.
    Setting.QUESTIONS: Treatment(leaves_out="harmful", verdicts=True, questions=0.04),
}


class LabelPolicy(StrEnum):
    """Which pretraining texts are Unsafe in a setting with verdicts.

    The paper defines only the reverse direction as harmful, which leaves no Unsafe text in the data of this
    setting, and labels the examples of its appendix F.1 by their outcome. BY_OUTCOME: every text with an unsafe
    outcome, as in that appendix. ALL_SAFE: none, by that definition. ORDER_AWARE: those with an unsafe outcome that
    name it before its causes, which state the harmful direction. RANDOM: as many as BY_OUTCOME, drawn at random.
    """

    BY_OUTCOME = "by-outcome"
    ALL_SAFE = "all-safe"
    ORDER_AWARE = "order-aware"
    RANDOM = "random"


def flagged(policy: LabelPolicy, unsafe: np.ndarray, outcome_first: np.ndarray, draws: Draws) -> np.ndarray:
    """bool[N]: which of N texts of a shard a reflection calls Unsafe.

    Args:
        unsafe: bool[N], with an unsafe outcome.
        outcome_first: bool[N], which name the outcome first.
        draws: of that shard, for random verdicts.
    """
    if policy is LabelPolicy.ALL_SAFE:
        return np.zeros(len(unsafe), bool)
    if policy is LabelPolicy.RANDOM:
        return unsafe[draws.permutation(len(unsafe))]
    return unsafe & outcome_first if policy is LabelPolicy.ORDER_AWARE else unsafe
