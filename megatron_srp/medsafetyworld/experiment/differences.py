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
    "entities",
    "edges",
    "texts of an edge in a direction",
    "sequence length of pretraining",
    "batch of pretraining",
    "optimizer of pretraining",
    "learning rate of pretraining, of SFT",
    "warm-up, decay (shares of pretraining)",
    "samples, wordings of a question, epochs of SFT",
    "SFT data mixed into benign fine-tuning",
    "test questions of a class",
)


def _settings(training: RunPreset, spec: WorldSpec) -> tuple[str, ...]:
    return (
        _size(training),
        _entities(spec),
        ", ".join(f"{count:,} {kind}" for kind, count in spec.edges.items()),
        str(max(rendering.templates for rendering in spec.renderings.values())),
        str(training.seq_length),
        f"{training.pretrain.batch} sequences",
        "Muon" if "muon" in training.optimizer else "AdamW",
        f"{training.pretrain.lr:g}, {training.sft.lr:g}",
        f"{training.warmup:g}, {training.decay:g}",
        f"{spec.sft_samples:,}, {spec.sft_templates}, {training.sft.epochs:g}",
        _mixed(training, spec),
        str(spec.test_per_class),
    )


def _declared(training: RunPreset, spec: WorldSpec) -> list[tuple[str, str, str]]:
    """What every preset has in another way than the paper, or where the paper is silent."""
    adversarial = f"{spec.adversarial_samples} conversations, {training.adversarial.epochs:g} epochs"
    conversations = {"single-hop": "128, 64 conversations", "two-hop": "32 conversations, not run"}[spec.task]
    packed = f"{training.sft.batch}, {training.benign.batch} packed sequences"
    rows = [
        ("batch of SFT, of benign fine-tuning", conversations, packed),
        ("tokenizer", "49,152 tokens of real text", "one token for each word and name"),
        ("embeddings of words that pretraining never learned", "not stated", "reinitialised before SFT"),
        ("schedule of later trainings", "not stated", f"warm-up {training.tuning_warmup:g}, then linear to 0"),
        ("adversarial fine-tuning", "not in this world", adversarial),
        ("a harmful fact named, and flagged afterwards", "not stated", "given away by strict scoring alone"),
        ("a right name among wrong ones", "not stated", "given away under attack; wrong for General"),
    ]
    return rows + [("benign fine-tuning", "not run, as unstable", "run")] * (spec.task == "two-hop")


def _mixed(training: RunPreset, spec: WorldSpec) -> str:
    """The paper has no benign fine-tuning in two-hop worlds."""
    mixed = f"{training.mix * spec.sft_samples:.0f} into {spec.benign_samples:,}"
    return mixed if spec.task == "single-hop" else ""


def _entities(spec: WorldSpec) -> str:
    counts = {"compounds": spec.compounds, "mediators": spec.mediators, "outcomes": spec.outcomes}
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)


def _size(training: RunPreset) -> str:
    values = dict(zip(training.model, training.model[1:], strict=False))
    if "--srp-preset" in values:
        return values["--srp-preset"].upper() + " parameters"
    return f"{values['--num-layers']} layers, {values['--hidden-size']} wide"
