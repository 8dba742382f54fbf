"""Where a run differs from the paper's experiment, by its preset; what the paper leaves open is in the package's
docstring."""

from megatron_srp.medsafetyworld.experiment.presets import RunPreset, find_run_preset
from megatron_srp.medsafetyworld.world.presets import PRESETS as WORLDS
from megatron_srp.medsafetyworld.world.presets import WorldSpec


def differences(preset: str, task: str) -> list[tuple[str, str, str]]:
    """What, the paper's, and ours, where they are not the same."""
    training, spec = find_run_preset(preset, task), WORLDS[preset][task]
    paper, papers_spec = find_run_preset("paper", task), WORLDS["paper"][task]
    settings = zip(_SETTINGS, _settings(paper, papers_spec), _settings(training, spec), strict=True)
    return [row for row in settings if row[1] != row[2]] + _declared(training, spec)


_SETTINGS = (
    "model",
    "edges",
    "texts of an edge in a direction",
    "optimizer of pretraining",
    "learning rate of pretraining, of SFT",
    "warm-up, decay (shares of pretraining)",
    "epochs of SFT",
    "SFT data mixed into benign fine-tuning",
)


def _settings(training: RunPreset, spec: WorldSpec) -> tuple[str, ...]:
    return (
        _size(training),
        ", ".join(f"{count:,} {kind}" for kind, count in spec.edges.items()),
        str(max(rendering.templates for rendering in spec.renderings.values())),
        "Muon" if "muon" in training.optimizer else "AdamW",
        f"{training.pretrain.lr:g}, {training.sft.lr:g}",
        f"{training.warmup:g}, {training.decay:g}",
        f"{training.sft.epochs:g}",
        f"{training.mix * spec.sft_samples:.0f} into {spec.benign_samples:,}",
    )


def _declared(training: RunPreset, spec: WorldSpec) -> list[tuple[str, str, str]]:
    """What every preset has in another way than the paper, or where the paper is silent."""
    adversarial = f"{spec.adversarial_samples} conversations, {training.adversarial.epochs:g} epochs"
    rows = [
        ("tokenizer", "49,152 tokens of real text", "one token for each word and name"),
        ("embeddings of words that pretraining never learned", "not stated", "reinitialised before SFT"),
        ("warm-up of later trainings", "not stated", f"{training.tuning_warmup:g}"),
        ("adversarial fine-tuning", "not in this world", adversarial),
    ]
    return rows + [("benign fine-tuning", "not run, as unstable", "run")] * (spec.task == "two-hop")


def _size(training: RunPreset) -> str:
    values = dict(zip(training.model, training.model[1:], strict=False))
    if "--srp-preset" in values:
        return values["--srp-preset"].upper() + " parameters"
    return f"{values['--num-layers']} layers, {values['--hidden-size']} wide"
