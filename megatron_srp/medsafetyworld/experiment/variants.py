"""What is compared: settings of the world with a way of post-training, and what is done to each model."""

from dataclasses import dataclass

from megatron_srp.errors import UsageError, did_you_mean

PRETRAINED, SFT, RECOVERY, ADVERSARIAL = "pretrained", "sft", "sft-recovery", "adversarial"
BENIGN = ("benign-original", "benign-mix-sft", "benign-reflection")
STAGES = (SFT, RECOVERY, *BENIGN, ADVERSARIAL)
_WITH_REFLECTIONS_ONLY = (RECOVERY, "benign-reflection")


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of the report.

    Attributes:
        name: as in `--settings`.
        world: the setting whose corpus it is pretrained on; variants of one world share the pretrained model.
        reflected: whether its post-training has reflections.
    """

    name: str
    world: str
    reflected: bool = False

    def stages(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        """The stages of `asked` that this variant has: recoveries and +Reflection need reflections."""
        return tuple(stage for stage in asked if self.reflected or stage not in _WITH_REFLECTIONS_ONLY)


_ALL = (
    Variant("baseline", "baseline"),
    Variant("filtering", "filtering"),
    Variant("filtering-plus", "filtering-plus"),
    Variant("rewrite", "rewrite"),
    Variant("srp", "srp", reflected=True),
    # The paper's "reflections in post-training only": Filtering's model, and SRP's post-training.
    Variant("post-only", "filtering", reflected=True),
)
VARIANTS = {variant.name: variant for variant in _ALL}


def parse_settings(names: str) -> list[Variant]:
    """`"filtering,srp"` as variants; `all` for all. Raises UsageError for another name, or one given twice."""
    if names == "all":
        return list(_ALL)
    return [VARIANTS[name] for name in _distinct("--settings", names, list(VARIANTS))]


def parse_stages(names: str) -> tuple[str, ...]:
    """`"sft,adversarial"` in the order of STAGES; `all` for all. The SFT model is always included."""
    chosen = STAGES if names == "all" else (*_distinct("--stages", names, list(STAGES)), SFT)
    return tuple(stage for stage in STAGES if stage in chosen)


def _distinct(flag: str, names: str, known: list[str]) -> list[str]:
    found = [name.strip() for name in names.split(",")]
    for name in found:
        if name not in known:
            raise UsageError(f"{flag} {name!r}: {did_you_mean(name, known)}")
    if len(set(found)) < len(found):
        raise UsageError(f"{flag} {names!r}: name each once")
    return found
