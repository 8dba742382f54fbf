"""How a world of each size is trained on. The sizes of the worlds themselves are in `medsafetyworld.presets`.

nano    for tests: a world and a model that learn next to nothing in seconds
mini    two CPU cores, some minutes for a setting
small   one H100 or H200. By arithmetic 10 minutes of pretraining for five settings (31M parameters x 116M tokens
        x 6 are 2.2e16 FLOP, 110 s at 200 TFLOP/s); post-training and measuring are extra. Not measured.
paper   the paper's 135M model, with its Table 13; about three H200-hours a setting. Not measured.
"""

from dataclasses import dataclass, replace
from typing import Any

from megatron_srp.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class Phase:
    """One training: peak learning rate, sequences in a step, and how often it goes through its data."""

    lr: float
    batch: int
    epochs: float


@dataclass(frozen=True, slots=True)
class RunPreset:
    """How to train.

    Attributes:
        world: preset of the world.
        model: Megatron's flags.
        optimizer, tuning_optimizer: Megatron's flags, of pretraining and of the later trainings.
        seq_length: of pretraining. `chat_length`: of post-training; every conversation must fit.
        pretrain, sft, benign, adversarial: the trainings.
        mix: share of the post-training set that is mixed into fine-tuning data (+mixSFT). The paper mixes 200
            conversations into 5,000; the presets mix as many in proportion.
        warmup, decay: shares of pretraining in which the learning rate rises, and falls to 0. `tuning_warmup`: of the
            later trainings.
        micro_batch: maximum sequences at a time on each GPU.
        minutes: CPU minutes of pretraining a setting, for the time left. A guess on a GPU.
    """

    world: str
    model: tuple[str, ...]
    optimizer: tuple[str, ...]
    tuning_optimizer: tuple[str, ...]
    seq_length: int
    chat_length: int
    pretrain: Phase
    sft: Phase
    benign: Phase
    adversarial: Phase
    mix: float
    micro_batch: int
    minutes: float
    warmup: float = 0.02
    decay: float = 0.5
    tuning_warmup: float = 0.05


_LLAMA = (
    *("--normalization", "RMSNorm", "--norm-epsilon", "1e-5", "--swiglu", "--disable-bias-linear"),
    *("--attention-dropout", "0", "--hidden-dropout", "0"),
    *("--position-embedding-type", "rope", "--rotary-base", "10000"),
)


def _model(layers: int, hidden: int, ffn: int, heads: int, std: float) -> tuple[str, ...]:
    sizes = {"num-layers": layers, "hidden-size": hidden, "ffn-hidden-size": ffn, "num-attention-heads": heads}
    flags = [token for name, size in sizes.items() for token in (f"--{name}", str(size))]
    return (*flags, *_LLAMA, "--init-method-std", str(std))


_NO_DECAY = ("--weight-decay", "0", "--clip-grad", "1.0")
_ADAM = ("--optimizer", "adam", "--adam-beta1", "0.9", "--adam-beta2", "0.95", "--adam-eps", "1e-8", *_NO_DECAY)
# Megatron's Muon for the matrices, in pretraining; embeddings and norms go to Adam at --lr. With AdamW alone a model
# of this size needs several times the tokens. An update's largest singular value is the learning rate times the
# factor, times sqrt(rows/columns) where there are more rows. Megatron's default, `spectral`, is larger by the square
# root of the longer side, 11 to 28 here: such models knew 15% of the facts rather than all, and answered 2% after SFT.
_MUON = (
    *("--optimizer", "muon", "--muon-momentum", "0.95", "--muon-nesterov", "--muon-scale-mode", "shape_scaling"),
    # Megatron orthogonalizes in bfloat16 by default, 20 times slower than float32 on a CPU without instructions for it.
    *("--muon-fp32-matmul-prec", "high"),
    *("--muon-extra-scale-factor", "0.3", "--adam-beta1", "0.9", "--adam-beta2", "0.999", *_NO_DECAY),
)
_BF16 = ("--bf16",)

_MINI = RunPreset(
    world="mini",
    model=_model(2, 128, 384, 4, 0.02),
    optimizer=_MUON,
    tuning_optimizer=_ADAM,
    seq_length=48,
    chat_length=96,
    pretrain=Phase(lr=6e-3, batch=16, epochs=1),
    sft=Phase(lr=5e-4, batch=8, epochs=4),
    benign=Phase(lr=1e-3, batch=8, epochs=3),
    adversarial=Phase(lr=1e-3, batch=8, epochs=10),
    mix=0.02,  # 40 of 2,000, into 1,000
    micro_batch=16,
    minutes=4,
)
PRESETS = {
    "nano": replace(
        _MINI,
        world="nano",
        model=_model(1, 32, 64, 2, 0.02),
        pretrain=Phase(lr=6e-3, batch=16, epochs=1),
        sft=Phase(lr=1e-3, batch=8, epochs=1),
        benign=Phase(lr=1e-3, batch=8, epochs=1),
        adversarial=Phase(lr=1e-3, batch=8, epochs=1),
        minutes=0.1,
    ),
    "mini": _MINI,
    "small": replace(
        _MINI,
        world="small",
        model=_model(10, 512, 1408, 8, 0.0442),
        optimizer=(*_ADAM, *_BF16),
        tuning_optimizer=(*_ADAM, *_BF16),
        seq_length=512,
        chat_length=512,
        pretrain=Phase(lr=5e-3, batch=128, epochs=1),
        sft=Phase(lr=1e-3, batch=16, epochs=3),
        benign=Phase(lr=1e-3, batch=8, epochs=3),
        adversarial=Phase(lr=1e-3, batch=4, epochs=10),
        mix=0.016,  # 80 of 5,000, into 2,000
        micro_batch=64,
        minutes=2,
    ),
    "paper": RunPreset(
        world="paper",
        model=("--srp-preset", "135m"),
        optimizer=(*_ADAM, *_BF16),
        tuning_optimizer=(*_ADAM, *_BF16),
        seq_length=512,
        chat_length=512,
        # Batches of conversations in the paper's table: 128 and 64; a sequence holds about eight of them.
        pretrain=Phase(lr=5e-3, batch=128, epochs=1),
        sft=Phase(lr=1e-3, batch=16, epochs=2),
        benign=Phase(lr=1e-3, batch=8, epochs=3),
        adversarial=Phase(lr=1e-3, batch=8, epochs=20),
        mix=0.01,  # 200 of 20,000, into 5,000
        micro_batch=32,
        minutes=180,
        warmup=0.01,
        decay=0.2,
    ),
}
# Where the two-hop world is trained on in another way: the paper's batch of 32 conversations, and three epochs. The
# paper did not run benign fine-tuning there; ours mixes in 200 conversations as elsewhere.
_TWO_HOP = {"paper": {"sft": Phase(lr=1e-3, batch=4, epochs=3), "mix": 200 / 6000}}


def find_run_preset(name: str, task: str = "single-hop") -> RunPreset:
    """The preset of that name for that task, or a UsageError naming the choices."""
    if name not in PRESETS:
        raise UsageError(f"--preset {name!r}: {did_you_mean(name, list(PRESETS))}")
    changes: dict[str, Any] = _TWO_HOP.get(name, {}) if task == "two-hop" else {}
    return replace(PRESETS[name], **changes)
