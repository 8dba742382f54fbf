"""What is compared: settings of the world with a way of post-training, and what is done to each model.

To add a row to the report, add a `Variant`; to add a training, add a `Stage`.
"""

from dataclasses import dataclass

from megatron_srp.errors import UsageError, did_you_mean

PRETRAINED, SFT, RECOVERY, FORGED = "pretrained", "sft", "sft-recovery", "sft-recovery-forged"
ADVERSARIAL = "adversarial"


@dataclass(frozen=True, slots=True)
class Stage:
    """A training on conversations.

    Attributes:
        name: as in `--stages`. `title`: in the report.
        data: the sets of `conversations` in an epoch, each with how often it is used: a number, or `mix`, the
            preset's share.
        after: the stage whose model it starts from; empty for the pretrained model.
        phase: which of the preset's trainings: `sft`, `benign` or `adversarial`.
        reflections: whether only models with reflections in post-training have it.
    """

    name: str
    title: str
    data: tuple[tuple[str, str], ...]
    after: str = SFT
    phase: str = "sft"
    reflections: bool = False

    @property
    def recovers(self) -> bool:
        """Whether its own data have recoveries."""
        return any(name.startswith("recovery") for name, _ in self.data)


_SFT = ("sft", "1")
_STAGES = (
    Stage(SFT, "after SFT", (_SFT,), after=""),
    Stage(RECOVERY, "after SFT with safety recovery", (_SFT, ("recovery", "1")), after=""),
    Stage(
        "sft-recovery-untested",
        "after SFT with safety recovery from beginnings that no attack uses",
        (_SFT, ("recovery-untested", "1")),
        after="",
    ),
    Stage(
        FORGED,
        "after SFT with safety recovery, half from a forged Safe reflection",
        (_SFT, ("recovery-forged", "1")),
        after="",
        reflections=True,
    ),
    Stage(
        ADVERSARIAL,
        "after adversarial fine-tuning",
        (("adversarial", "1"),),
        phase="adversarial",
    ),
    Stage(
        "recovery-adversarial",
        "after safety recovery, then adversarial fine-tuning",
        (("adversarial", "1"),),
        after=RECOVERY,
        phase="adversarial",
    ),
    Stage(
        "forged-adversarial",
        "after forged recovery, then adversarial fine-tuning",
        (("adversarial", "1"),),
        after=FORGED,
        phase="adversarial",
        reflections=True,
    ),
    Stage(
        "adversarial-safe",
        "after adversarial fine-tuning on answers that reflect Safe",
        (("adversarial-safe", "1"),),
        phase="adversarial",
        reflections=True,
    ),
    Stage(
        "benign-original",
        "after benign fine-tuning, data as they are",
        (("benign", "1"),),
        phase="benign",
    ),
    Stage(
        "benign-mix-sft",
        "after benign fine-tuning, SFT data mixed in",
        (("benign", "1"), ("sft", "mix")),
        phase="benign",
    ),
    Stage(
        "benign-reflection",
        "after benign fine-tuning, with reflections",
        (("benign-reflection", "1"),),
        phase="benign",
        reflections=True,
    ),
)
STAGES = {stage.name: stage for stage in _STAGES}


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the report.

    Attributes:
        name: as in `--settings`. `title`: in the report.
        setting: of the world whose corpus it is pretrained on.
        reflected: whether its post-training has reflections.
        policy: the label policy of that corpus; empty for the run's.
        base: the variant whose pretrained model it starts from; empty for its own.
        steps_of: the variant with as many steps of pretraining; empty for once through the corpus.
        sft_times: by how much its SFT is longer than the preset's.
        data_policy: of `data/policies`, applied to the plain corpus; empty where the setting says it all.
        special: whether what that policy writes are tokens of their own, of an extended tokenizer.
        own_stages: what `--stages all` does to it; empty for every stage it can have.
        tier: when it is trained: a run does tier 0 for all seeds first.
    """

    name: str
    title: str
    setting: str
    reflected: bool = False
    policy: str = ""
    base: str = ""
    steps_of: str = ""
    sft_times: int = 1
    data_policy: str = ""
    special: bool = False
    own_stages: tuple[str, ...] = ()
    tier: int = 1

    @property
    def pretrained(self) -> str:
        """The variant that its pretrained model belongs to."""
        return self.base or self.name

    def stages(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        """The stages of `asked` that it has; of all stages those that say something about it."""
        wanted = self.own_stages or asked if asked == tuple(STAGES) else asked
        return tuple(name for name in STAGES if name in wanted and self._can_have(STAGES[name]))

    def _can_have(self, stage: Stage) -> bool:
        """Forged reflections need a model that reflects, and recoveries a corpus that has unsafe outcomes."""
        if stage.reflections and not self.reflected:
            return False
        before = STAGES[stage.after] if stage.after else stage
        return self.setting != "filtering-plus" or not (stage.recovers or before.recovers)


_TWO_BY_TWO = (SFT, RECOVERY, FORGED, ADVERSARIAL)
_CONTROL = (SFT, RECOVERY)
_ALL = (
    Variant("baseline", "Baseline", "baseline", own_stages=(*_CONTROL, ADVERSARIAL)),
    Variant("filtering", "Filtering", "filtering", tier=0),
    Variant("filtering-plus", "Filtering-plus", "filtering-plus"),
    Variant("rewrite", "Rewrite", "rewrite"),
    # The paper's "reflections in post-training only": Filtering's model, and SRP's post-training.
    Variant("post-only", "reflections in post-training only", "filtering", True, base="filtering", tier=0),
    Variant("srp", "SRP", "srp", True, tier=0),
    # Controls. Each shares SRP's post-training, but those that ask what a longer training does to Filtering.
    Variant("filtering-tags", "verdicts as words", "filtering-tags", True, own_stages=_TWO_BY_TWO, tier=0),
    Variant("srp-all-safe", "SRP, all verdicts Safe", "srp", True, "all-safe", own_stages=_TWO_BY_TWO, tier=0),
    Variant("srp-random", "SRP, random verdicts", "srp", True, "random", own_stages=_CONTROL),
    Variant("filtering-filler", "Filtering with filler text", "filtering-filler", own_stages=_CONTROL),
    Variant("filtering-steps", "Filtering, SRP's steps", "filtering", steps_of="srp", own_stages=_CONTROL),
    # In the miniature conversations with reflections take 1.86 times as many steps.
    Variant("filtering-sft", "Filtering, twice the SFT", "filtering", base="filtering", sft_times=2, own_stages=(SFT,)),
)


def _policy(name: str, special: bool = False) -> Variant:
    """What else can be done with SRP's verdicts: the same plain texts, Filtering's steps and plain post-training."""
    return Variant(
        name,
        f"policy {name}",
        "srp",
        steps_of="filtering",
        data_policy=name,
        special=special,
        own_stages=_CONTROL,
    )


_POLICIES = (
    *map(_policy, ("filter-document", "drop-segment", "mask-loss")),
    *(_policy(name, special=True) for name in ("hide", "tag-before", "tag-inside")),
    # SRP, with its steps and post-training, but marks that no page and no prefill of text can write.
    Variant(
        "srp-special",
        "SRP with special tokens",
        "srp",
        reflected=True,
        steps_of="srp",
        data_policy="srp",
        special=True,
        own_stages=_TWO_BY_TWO,
    ),
)
# Defences that no claim is about.
_DEFENCES = (
    Variant("srp-questions", "SRP with questions in pretraining", "srp-questions", True, own_stages=_TWO_BY_TWO),
)
VARIANTS = {variant.name: variant for variant in (*_ALL, *_POLICIES, *_DEFENCES)}


def tier(variant: Variant, stage: str) -> int:
    """When a model is trained and measured: the two-by-two first, and what is built on it after it."""
    return variant.tier + (0 if stage in (PRETRAINED, SFT) else 1 if stage in _TWO_BY_TWO else 2)


_NAMED = {name: (variant,) for name, variant in VARIANTS.items()} | {"all": _ALL, "policies": _POLICIES}


def parse_settings(names: str) -> list[Variant]:
    """`"filtering,srp"` as variants; `policies` stands for the data policies, `all` for all but these and defences.

    Raises:
        UsageError: for another name, or one given twice.
    """
    chosen = [variant for name in _distinct("--settings", names, list(_NAMED)) for variant in _NAMED[name]]
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"--settings {names!r}: name each once; all and policies stand for several")
    return chosen


def parse_stages(names: str) -> tuple[str, ...]:
    """`"sft,adversarial"` in the order of STAGES, with those they start from; `all` for all. The SFT model is always
    included."""
    chosen = set(STAGES) if names == "all" else {*_distinct("--stages", names, list(STAGES)), SFT}
    chosen |= {STAGES[name].after for name in chosen}
    return tuple(stage for stage in STAGES if stage in chosen)


def _distinct(flag: str, names: str, known: list[str]) -> list[str]:
    found = [name.strip() for name in names.split(",")]
    for name in found:
        if name not in known:
            raise UsageError(f"{flag} {name!r}: {did_you_mean(name, known)}")
    if len(set(found)) < len(found):
        raise UsageError(f"{flag} {names!r}: name each once")
    return found
