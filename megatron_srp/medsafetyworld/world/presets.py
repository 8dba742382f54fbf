"""Sizes of worlds: the paper's (its Tables 12 and 13), a quarter of it, and a miniature for two CPU cores.

A preset's numbers describe the data alone; how to train on them is in `experiment.presets`.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from megatron_srp.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the edges of one kind are rendered in one direction.

    Attributes:
        templates: texts for each rendered edge, each from a different template.
        probability: of rendering an edge.
    """

    templates: int
    probability: float = 1.0


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """Everything that decides a world, except its seed.

    Attributes:
        task: `single-hop` or `two-hop`.
        compounds, mediators, outcomes: their numbers.
        unsafe_share: of the outcomes (ours: the paper gives no figure).
        edges: by kind. Single-hop: `single` and `pair`; two-hop: `join` (compounds give the number of steps, and
            the Cartesian product that of chains).
        renderings: by `kind/direction`. In reverse direction the paper speaks of edges with safe outcomes; those
            with unsafe ones get the same numbers where a setting has them.
        style: of the texts, in `phrases.STYLES`: short, plain, or full, which has a second sentence.
        sft_samples: answered and refused training questions.
        sft_reverse: probability that an edge asked about is asked in reverse as well.
        sft_templates: phrasings of each question.
        refuse_ratio: share of `sft_samples` that are refusals.
        test_per_class: test questions in each of the four classes.
        benign_samples: answered forward questions on pairs (two-hop: chains) that are not in the SFT set.
        adversarial_samples: answered harmful questions, on outcomes that are not in the test set.
        cause_first: whether co-occurrence texts name the causes before the outcome always, rather than half of the
            time. The other half states the harmful direction, also where a setting leaves out the harmful texts.
        shard_texts: texts of a corpus shard, before the setting leaves any out.
    """

    task: str
    compounds: int
    mediators: int
    outcomes: int
    edges: dict[str, int]
    renderings: dict[str, Rendering]
    style: str
    sft_samples: int
    refuse_ratio: float = 0.1
    sft_reverse: float = 0.5
    sft_templates: int = 10
    test_per_class: int = 500
    benign_samples: int = 5000
    adversarial_samples: int = 500
    unsafe_share: float = 0.4
    cause_first: bool = False
    shard_texts: int = 1 << 18

    def describe(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return asdict(self)


_PAPER_SINGLE_HOP = WorldSpec(
    task="single-hop",
    compounds=10_000,
    mediators=0,
    outcomes=1_500,
    edges={"single": 20_000, "pair": 6_000},
    renderings={
        "single/forward": Rendering(1400),
        "single/reverse": Rendering(1400, 0.3),
        "single/co-occurrence": Rendering(1000, 0.4),
        "pair/forward": Rendering(1400),
        "pair/reverse": Rendering(1400, 0.3),
        "pair/co-occurrence": Rendering(1000, 0.8),
    },
    style="full",
    sft_samples=20_000,
)
_PAPER_TWO_HOP = WorldSpec(
    task="two-hop",
    compounds=10_000,
    mediators=8_500,
    outcomes=1_500,
    edges={"join": 10_000},
    renderings={
        "step/forward": Rendering(200),
        "step/reverse": Rendering(200),
        "join/forward": Rendering(700),
        "join/reverse": Rendering(700),
        "chain/forward": Rendering(700),
    },
    style="full",
    sft_samples=6_000,
)


def _scaled(spec: WorldSpec, divisor: int, texts: float, **changes: Any) -> WorldSpec:
    """`spec` with entities and edges divided by `divisor`, and templates multiplied by `texts`."""
    return replace(
        spec,
        compounds=spec.compounds // divisor,
        mediators=spec.mediators // divisor,
        outcomes=spec.outcomes // divisor,
        edges={kind: count // divisor for kind, count in spec.edges.items()},
        renderings={
            name: Rendering(round(texts * rendering.templates), rendering.probability)
            for name, rendering in spec.renderings.items()
        },
        **changes,
    )


_SMALL = {"style": "plain", "test_per_class": 250, "benign_samples": 2000, "adversarial_samples": 250}
_MINI = {
    "style": "short",
    "sft_samples": 2000,
    "sft_templates": 20,
    "test_per_class": 128,
    "benign_samples": 1000,
    "adversarial_samples": 100,
}

PRESETS: dict[str, dict[str, WorldSpec]] = {
    "paper": {"single-hop": _PAPER_SINGLE_HOP, "two-hop": _PAPER_TWO_HOP},
    # 400 texts for an edge, where the paper has 1400: about 120M tokens.
    "small": {
        "single-hop": _scaled(_PAPER_SINGLE_HOP, 4, 400 / 1400, sft_samples=5000, **_SMALL),
        "two-hop": _scaled(_PAPER_TWO_HOP, 4, 400 / 700, sft_samples=3000, **_SMALL),
    },
    # Calibrated for two CPU cores; far more outcomes per compound than a scaled world would have.
    "mini": {
        "single-hop": replace(
            _scaled(_PAPER_SINGLE_HOP, 1, 180 / 1400, **_MINI),
            compounds=160,
            outcomes=80,
            edges={"single": 320, "pair": 96},
            sft_templates=8,  # more facts in fewer wordings: else a small model learns these facts, not to answer
        ),
        "two-hop": replace(
            _scaled(_PAPER_TWO_HOP, 1, 180 / 700, **_MINI),
            compounds=160,
            mediators=120,
            outcomes=80,
            edges={"join": 160},
        ),
    },
}


# For tests: every feature, in a second.
PRESETS["nano"] = {
    "single-hop": replace(
        PRESETS["mini"]["single-hop"],
        compounds=24,
        outcomes=12,
        edges={"single": 36, "pair": 12},
        renderings={name: Rendering(16, r.probability) for name, r in _PAPER_SINGLE_HOP.renderings.items()},
        sft_samples=200,
        test_per_class=12,
        benign_samples=60,
        adversarial_samples=20,
    )
}


def load_preset(preset: str, task: str, cause_first: bool = False) -> WorldSpec:
    """The world of that name and task; raises UsageError for an unknown one."""
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset!r}: {did_you_mean(preset, list(PRESETS))}")
    if task not in PRESETS[preset]:
        raise UsageError(f"--task {task!r}: {did_you_mean(task, list(PRESETS[preset]))}")
    return replace(PRESETS[preset][task], cause_first=cause_first)
