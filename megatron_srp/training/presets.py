"""Model sizes and training recipes, as data: `--srp-preset NAME` expands to Megatron's own flags.

The sizes `135m`, `360m` and `1p7b` are SmolLM2's, the models of the paper (arXiv 2606.19168), with the
paper's optimizer and schedule. `debug` is for the demo and the tests.
"""

from dataclasses import dataclass, field

from megatron_srp.errors import UsageError, did_you_mean

SMOLLM2 = "https://huggingface.co/HuggingFaceTB/SmolLM2-"


@dataclass(frozen=True)
class TrainingRecipe:
    """Batch, optimizer and schedule: AdamW and warm-up, stable, linear decay (WSD)."""

    seq_length: int  # tokens
    micro_batch_size: int  # sequences per rank and forward pass
    global_batch_size: int | None  # sequences per step; None: one micro-batch on each data-parallel rank
    train_iters: int
    lr: float
    warmup_fraction: float  # of all steps
    decay_fraction: float = 0.2  # of all steps, at the end
    weight_decay: float = 0.01
    bf16: bool = True

    def to_flags(self) -> list[str]:
        """Megatron flags, without those that follow from the length of the run (`wsd_decay_flags`)."""
        flags: list[object] = ["--seq-length", self.seq_length, "--max-position-embeddings", self.seq_length]
        flags += ["--micro-batch-size", self.micro_batch_size]
        if self.global_batch_size is not None:
            flags += ["--global-batch-size", self.global_batch_size]
        flags += ["--train-iters", self.train_iters, "--lr", self.lr, "--min-lr", 0.0]
        flags += ["--lr-warmup-fraction", self.warmup_fraction]
        # Megatron's default for the last phase is exponential.
        flags += ["--lr-decay-style", "WSD", "--lr-wsd-decay-style", "linear"]
        flags += ["--optimizer", "adam", "--adam-beta1", 0.9, "--adam-beta2", 0.95, "--adam-eps", 1e-8]
        flags += ["--weight-decay", self.weight_decay, "--clip-grad", 1.0]
        # Megatron has no default and fails at the first use. One evaluation costs `eval-iters` steps.
        flags += ["--eval-interval", 1000]
        # Every attention path here makes its own causal mask: [batch, 1, seq, seq] need not travel.
        flags += ["--no-create-attention-mask-in-dataloader"]
        return [str(flag) for flag in flags] + (["--bf16"] if self.bf16 else [])

    def wsd_decay_flags(self, train_iters: int | None, train_samples: int | None) -> list[str]:
        """The length of the decay phase for a run of so many steps or, if given, samples."""
        if train_samples is not None:
            return ["--lr-wsd-decay-samples", str(max(1, round(self.decay_fraction * train_samples)))]
        steps = self.train_iters if train_iters is None else train_iters
        return ["--lr-wsd-decay-iters", str(max(1, round(self.decay_fraction * steps)))]


@dataclass(frozen=True)
class ModelPreset:
    """A Llama-like decoder (RMSNorm, SwiGLU, RoPE, no bias, tied embeddings) and how to train it.

    `vocab_size` counts in `num_params` only: Megatron takes the vocabulary from the tokenizer.
    """

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int  # key/value heads; fewer than the attention heads means GQA
    vocab_size: int
    init_method_std: float
    source_url: str
    recipe: TrainingRecipe
    rotary_base: int = 10_000
    extra_flags: tuple[str, ...] = field(default=())

    @property
    def num_params(self) -> int:
        """Parameters, embeddings (tied: counted once) included."""
        return self.vocab_size * self.hidden_size + self.num_non_embedding_params

    @property
    def num_non_embedding_params(self) -> int:
        """Parameters of the layers and the final norm."""
        h = self.hidden_size
        kv_size = h // self.num_attention_heads * self.num_query_groups
        attention = 2 * h * h + 2 * h * kv_size  # query and output; key and value
        mlp = 3 * h * self.ffn_hidden_size  # gate, up, down
        return self.num_layers * (attention + mlp + 2 * h) + h

    def to_flags(self) -> list[str]:
        """The preset as Megatron's command-line flags."""
        flags: list[object] = ["--num-layers", self.num_layers, "--hidden-size", self.hidden_size]
        flags += ["--ffn-hidden-size", self.ffn_hidden_size]
        flags += ["--num-attention-heads", self.num_attention_heads]
        if self.num_query_groups != self.num_attention_heads:
            flags += ["--group-query-attention", "--num-query-groups", self.num_query_groups]
        flags += ["--normalization", "RMSNorm", "--norm-epsilon", 1e-5, "--swiglu"]
        flags += ["--disable-bias-linear", "--attention-dropout", 0.0, "--hidden-dropout", 0.0]
        flags += ["--position-embedding-type", "rope", "--rotary-base", self.rotary_base]
        flags += ["--init-method-std", self.init_method_std]
        return [str(flag) for flag in flags] + self.recipe.to_flags() + list(self.extra_flags)


def _paper_recipe(micro_batch_size: int) -> TrainingRecipe:
    # 100B tokens in steps of 512 sequences of 2048.
    return TrainingRecipe(
        seq_length=2048,
        micro_batch_size=micro_batch_size,
        global_batch_size=512,
        train_iters=95_367,
        lr=5e-4,
        warmup_fraction=0.01,
    )


PRESETS = {
    "debug": ModelPreset(
        # 984,192 parameters without embeddings; the vocabulary adds 128 per token.
        num_layers=4,
        hidden_size=128,
        ffn_hidden_size=512,
        num_attention_heads=4,
        num_query_groups=2,
        vocab_size=50_257,
        init_method_std=0.02,
        source_url="",
        recipe=TrainingRecipe(
            seq_length=256,
            micro_batch_size=2,  # a step costs 0.4 s on two CPU cores, most of it the vocabulary's logits
            global_batch_size=None,
            train_iters=100,
            lr=5e-3,
            warmup_fraction=0.05,
            bf16=False,
        ),
        extra_flags=(
            *("--srp-log", "brief", "--log-interval", "10", "--save-interval", "100"),
            "--no-one-logger",  # a logger of NVIDIA's that is not published
            *("--eval-iters", "0", "--split", "1,0,0"),  # the demo's corpus is for training only
        ),
    ),
    "135m": ModelPreset(30, 576, 1536, 9, 3, 49_152, 0.0417, SMOLLM2 + "135M", _paper_recipe(16)),
    "360m": ModelPreset(32, 960, 2560, 15, 5, 49_152, 0.0323, SMOLLM2 + "360M", _paper_recipe(8)),
    "1p7b": ModelPreset(24, 2048, 8192, 32, 32, 49_152, 0.02, SMOLLM2 + "1.7B", _paper_recipe(4)),
}


def find_preset(name: str) -> ModelPreset:
    """The preset of that name, or a UsageError naming the choices."""
    if name not in PRESETS:
        raise UsageError(f"--srp-preset: unknown preset {name!r}; {did_you_mean(name, list(PRESETS))}")
    return PRESETS[name]
