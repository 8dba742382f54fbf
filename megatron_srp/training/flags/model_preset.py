"""A model size and its training recipe, and how they become Megatron's flags; `presets.py` has the data."""

from dataclasses import dataclass, field, replace

FUSED_LOSS = "--cross-entropy-loss-fusion"


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
        # Every attention path here makes its own causal mask: no need to send [batch, 1, seq, seq].
        flags += ["--no-create-attention-mask-in-dataloader"]
        # The fused loss spares copies of the logits in fp32. Its gradient is in bf16, which would cost an fp32 run.
        return [str(flag) for flag in flags] + (["--bf16", FUSED_LOSS] if self.bf16 else [])

    def wsd_decay_flags(self, train_iters: int | None, train_samples: int | None) -> list[str]:
        """Flags for the length of the decay phase of a run of this many steps or, if given, samples."""
        if train_samples is not None:
            return ["--lr-wsd-decay-samples", str(max(1, round(self.decay_fraction * train_samples)))]
        steps = self.train_iters if train_iters is None else train_iters
        return ["--lr-wsd-decay-iters", str(max(1, round(self.decay_fraction * steps)))]


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: in every layer `count` MLPs, `per_token` of which each token passes through."""

    count: int
    per_token: int
    aux_loss_coeff: float = 0.0  # of the loss that balances the experts' load

    def to_flags(self) -> list[str]:
        """Megatron's flags, without the MLPs' width. Experts are spread whole, never split (expert TP 1)."""
        flags: list[object] = ["--num-experts", self.count, "--moe-router-topk", self.per_token]
        flags += ["--moe-router-load-balancing-type", "aux_loss", "--moe-aux-loss-coeff", self.aux_loss_coeff]
        flags += ["--moe-router-dtype", "fp32", "--moe-token-dispatcher-type", "alltoall"]
        flags += ["--expert-tensor-parallel-size", 1]
        return [*map(str, flags), "--moe-grouped-gemm"]


@dataclass(frozen=True, kw_only=True)
class ModelPreset:
    """A Llama-like decoder (RMSNorm, SwiGLU, RoPE, no bias) and how to train it.

    `vocab_size` counts in `num_params` only: Megatron takes the vocabulary from the tokenizer.
    """

    name: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int  # of each expert, where there are experts
    num_attention_heads: int
    num_query_groups: int  # key/value heads; fewer than the attention heads means GQA
    vocab_size: int
    init_method_std: float
    source_url: str
    recipe: TrainingRecipe
    rotary_base: int = 10_000
    tied_embeddings: bool = True
    experts: Experts | None = None
    kv_channels: int | None = None  # width of a head; None: the hidden size divided among the heads
    qk_norm: bool = False  # RMSNorm of each head's queries and keys
    extra_flags: tuple[str, ...] = field(default=())

    def with_batch(self, seq_length: int | None, global_batch_size: int | None) -> "ModelPreset":
        """This size with another sequence length (tokens) or batch size (sequences), if given."""
        recipe = self.recipe
        return replace(
            self,
            recipe=replace(
                recipe,
                seq_length=seq_length or recipe.seq_length,
                global_batch_size=global_batch_size or recipe.global_batch_size,
            ),
        )

    @property
    def num_params(self) -> int:
        """All parameters; a tied embedding counts once."""
        embeddings = self.vocab_size * self.hidden_size
        return embeddings * (1 if self.tied_embeddings else 2) + self.num_non_embedding_params

    @property
    def num_non_embedding_params(self) -> int:
        """Parameters of the layers and the final norm."""
        return self.num_layers * (self.num_layer_matrix_params + self.num_layer_whole_params) + self.hidden_size

    @property
    def num_active_params(self) -> int:
        """Parameters that a token passes through: all, but of the experts only those it is routed to."""
        idle = self.num_mlps - (self.experts.per_token if self.experts else 1)
        return self.num_params - self.num_layers * idle * self.num_mlp_params

    @property
    def head_size(self) -> int:
        """Width of a head's queries, keys and values."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def query_size(self) -> int:
        """Width of a token's queries, over all heads."""
        return self.head_size * self.num_attention_heads

    @property
    def kv_size(self) -> int:
        """Width of a token's keys (and of its values), over all groups."""
        return self.head_size * self.num_query_groups

    @property
    def num_mlps(self) -> int:
        """MLPs in a layer: the experts, or one."""
        return self.experts.count if self.experts else 1

    @property
    def num_layer_matrix_params(self) -> int:
        """Parameters of a layer's matrices, which are sharded, the experts' by expert parallelism."""
        return self.num_attention_params + self.num_mlps * self.num_mlp_params

    @property
    def num_attention_params(self) -> int:
        """Parameters of a layer's attention matrices: query and output, key and value."""
        return 2 * self.hidden_size * (self.query_size + self.kv_size)

    @property
    def num_mlp_params(self) -> int:
        """Parameters of one MLP: gate, up, down."""
        return 3 * self.hidden_size * self.ffn_hidden_size

    @property
    def num_layer_whole_params(self) -> int:
        """Parameters of a layer that every tensor-parallel rank holds: its norms, and the experts' router."""
        router = self.experts.count * self.hidden_size if self.experts else 0
        return 2 * self.hidden_size + (2 * self.head_size if self.qk_norm else 0) + router

    def to_flags(self) -> list[str]:
        """The preset as Megatron's command-line flags."""
        flags: list[object] = ["--num-layers", self.num_layers, "--hidden-size", self.hidden_size]
        flags += ["--ffn-hidden-size", self.ffn_hidden_size]
        flags += ["--num-attention-heads", self.num_attention_heads]
        if self.num_query_groups != self.num_attention_heads:
            flags += ["--group-query-attention", "--num-query-groups", self.num_query_groups]
        if self.kv_channels:
            flags += ["--kv-channels", self.kv_channels]
        if self.qk_norm:
            flags += ["--qk-layernorm"]
        if self.experts:
            flags += [*self.experts.to_flags(), "--moe-ffn-hidden-size", self.ffn_hidden_size]
        if not self.tied_embeddings:
            flags += ["--untie-embeddings-and-output-weights"]
        flags += ["--normalization", "RMSNorm", "--norm-epsilon", 1e-5, "--swiglu"]
        flags += ["--disable-bias-linear", "--attention-dropout", 0.0, "--hidden-dropout", 0.0]
        flags += ["--position-embedding-type", "rope", "--rotary-base", self.rotary_base]
        flags += ["--init-method-std", self.init_method_std]
        return [str(flag) for flag in flags] + self.recipe.to_flags() + list(self.extra_flags)
