"""The five settings: which texts a model is pretrained on, and what reflections say about them."""

from enum import StrEnum

import numpy as np


class Direction(StrEnum):
    """What a text states: from cause to outcome, from outcome to cause, or that both occur together."""

    FORWARD = "forward"
    REVERSE = "reverse"
    CO_OCCURRENCE = "co-occurrence"


class Setting(StrEnum):
    """How the harmful texts are treated, those in reverse direction with an unsafe outcome.

    BASELINE keeps everything. FILTERING leaves the harmful texts out. FILTERING_PLUS leaves out whatever has an
    unsafe outcome. REWRITE has the harmful texts call the outcome dangerous. SRP is FILTERING's texts, with
    verdicts for reflections.
    """

    BASELINE = "baseline"
    FILTERING = "filtering"
    FILTERING_PLUS = "filtering-plus"
    REWRITE = "rewrite"
    SRP = "srp"


class LabelPolicy(StrEnum):
    """Which pretraining texts are Unsafe in the SRP setting.

    The paper defines only the reverse direction as harmful, which leaves no Unsafe text in the data of this
    setting, and labels the examples of its appendix F.1 by their outcome. BY_OUTCOME: every text with an unsafe
    outcome, as in that appendix. ALL_SAFE: none, by that definition. ORDER_AWARE: those with an unsafe outcome that
    name it before its causes, which is where a model learns the harmful direction from.
    """

    BY_OUTCOME = "by-outcome"
    ALL_SAFE = "all-safe"
    ORDER_AWARE = "order-aware"


def kept(setting: Setting, harmful: np.ndarray, unsafe: np.ndarray) -> np.ndarray:
    """bool[N]: which of N texts the setting has.

    Args:
        harmful: bool[N], in reverse direction with an unsafe outcome.
        unsafe: bool[N], with an unsafe outcome.
    """
    if setting is Setting.FILTERING_PLUS:
        return ~unsafe
    if setting in (Setting.FILTERING, Setting.SRP):
        return ~harmful
    return np.ones(len(harmful), bool)


def flagged(policy: LabelPolicy, unsafe: np.ndarray, outcome_first: np.ndarray) -> np.ndarray:
    """bool[N]: which of N texts a reflection calls Unsafe; `outcome_first` are those that name the outcome first."""
    if policy is LabelPolicy.ALL_SAFE:
        return np.zeros(len(unsafe), bool)
    return unsafe & outcome_first if policy is LabelPolicy.ORDER_AWARE else unsafe
