"""Model sizes and training recipes, as data: `--srp-preset NAME` expands to Megatron's own flags.

`135m`, `360m` and `1p7b` are SmolLM2's shapes, the models of the paper (arXiv 2606.19168), with the paper's
optimizer and schedule. The larger ones are the shapes of published Llama-like models, with the learning
rate and the batch that their authors report, and the paper's schedule. `7b-a1b`, `30b-a3b` and `8x7b` are mixtures of
experts. `debug` is for the demo and the tests.
"""

from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.training.flags.model_preset import Experts, ModelPreset, TrainingRecipe

SMOLLM2 = "https://huggingface.co/HuggingFaceTB/SmolLM2-"
NUM_TOKENS = 100e9  # of the paper's corpus; give --train-iters for another


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


def _large_recipe(lr: float, global_batch_size: int) -> TrainingRecipe:
    # Learning rate and batch in tokens: SmolLM3's blog post, table 3 of Llama 3 (arXiv 2407.21783; its
    # batches began at 4M tokens), OLMo 2 (arXiv 2501.00656 and the 32B's configuration).
    return TrainingRecipe(
        seq_length=4096,
        micro_batch_size=1,
        global_batch_size=global_batch_size,
        train_iters=round(NUM_TOKENS / (4096 * global_batch_size)),
        lr=lr,
        warmup_fraction=0.01,
        weight_decay=0.1,
    )


def _moe_recipe() -> TrainingRecipe:
    # OLMoE's (arXiv 2409.02060, appendix B); the authors of Qwen3 and of Mixtral report none.
    return _large_recipe(lr=4e-4, global_batch_size=1024)


_ALL = (
    ModelPreset(
        # 984,192 parameters without embeddings; the vocabulary adds 128 per token.
        name="debug",
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
    ModelPreset(
        name="135m",
        num_layers=30,
        hidden_size=576,
        ffn_hidden_size=1536,
        num_attention_heads=9,
        num_query_groups=3,
        vocab_size=49_152,
        init_method_std=0.0417,
        source_url=SMOLLM2 + "135M",
        recipe=_paper_recipe(16),
    ),
    ModelPreset(
        name="360m",
        num_layers=32,
        hidden_size=960,
        ffn_hidden_size=2560,
        num_attention_heads=15,
        num_query_groups=5,
        vocab_size=49_152,
        init_method_std=0.0323,
        source_url=SMOLLM2 + "360M",
        recipe=_paper_recipe(8),
    ),
    ModelPreset(
        name="1p7b",
        num_layers=24,
        hidden_size=2048,
        ffn_hidden_size=8192,
        num_attention_heads=32,
        num_query_groups=32,
        vocab_size=49_152,
        init_method_std=0.02,
        source_url=SMOLLM2 + "1.7B",
        recipe=_paper_recipe(4),
    ),
    ModelPreset(
        # SmolLM3's shape; it leaves RoPE out of every fourth layer, this preset does not.
        name="3b",
        num_layers=36,
        hidden_size=2048,
        ffn_hidden_size=11_008,
        num_attention_heads=16,
        num_query_groups=4,
        vocab_size=128_256,
        init_method_std=0.02,
        source_url="https://huggingface.co/HuggingFaceTB/SmolLM3-3B",
        recipe=_large_recipe(lr=2e-4, global_batch_size=576),
        rotary_base=50_000,
    ),
    ModelPreset(
        name="8b",
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=14_336,
        num_attention_heads=32,
        num_query_groups=8,
        vocab_size=128_256,
        init_method_std=0.02,
        source_url="https://huggingface.co/meta-llama/Llama-3.1-8B",
        recipe=_large_recipe(lr=3e-4, global_batch_size=1024),
        rotary_base=500_000,
        tied_embeddings=False,
    ),
    ModelPreset(
        # OLMo 2's shape, without its norms of queries and keys (393,216 parameters).
        name="32b",
        num_layers=64,
        hidden_size=5120,
        ffn_hidden_size=27_648,
        num_attention_heads=40,
        num_query_groups=8,
        vocab_size=100_352,
        init_method_std=0.02,
        source_url="https://huggingface.co/allenai/OLMo-2-0325-32B",
        recipe=_large_recipe(lr=6e-4, global_batch_size=2048),
        rotary_base=500_000,
        tied_embeddings=False,
    ),
    ModelPreset(
        name="70b",
        num_layers=80,
        hidden_size=8192,
        ffn_hidden_size=28_672,
        num_attention_heads=64,
        num_query_groups=8,
        vocab_size=128_256,
        init_method_std=0.02,
        source_url="https://huggingface.co/meta-llama/Meta-Llama-3-70B",
        recipe=_large_recipe(lr=1.5e-4, global_batch_size=1024),
        rotary_base=500_000,
        tied_embeddings=False,
    ),
    ModelPreset(
        # OLMoE's shape, without its norms of all queries and keys of a token (65,536 parameters).
        name="7b-a1b",
        num_layers=16,
        hidden_size=2048,
        ffn_hidden_size=1024,
        num_attention_heads=16,
        num_query_groups=16,
        vocab_size=50_304,
        init_method_std=0.02,
        source_url="https://huggingface.co/allenai/OLMoE-1B-7B-0924",
        recipe=_moe_recipe(),
        tied_embeddings=False,
        experts=Experts(count=64, per_token=8, aux_loss_coeff=0.01),
        extra_flags=("--moe-router-pre-softmax", "--moe-z-loss-coeff", "0.001"),
    ),
    ModelPreset(
        name="30b-a3b",
        num_layers=48,
        hidden_size=2048,
        ffn_hidden_size=768,
        num_attention_heads=32,
        num_query_groups=4,
        vocab_size=151_936,
        init_method_std=0.02,
        source_url="https://huggingface.co/Qwen/Qwen3-30B-A3B-Base",
        recipe=_moe_recipe(),
        rotary_base=1_000_000,
        tied_embeddings=False,
        experts=Experts(count=128, per_token=8, aux_loss_coeff=0.001),
        kv_channels=128,
        qk_norm=True,
    ),
    ModelPreset(
        name="8x7b",
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=14_336,
        num_attention_heads=32,
        num_query_groups=8,
        vocab_size=32_000,
        init_method_std=0.02,
        source_url="https://huggingface.co/mistralai/Mixtral-8x7B-v0.1",
        recipe=_moe_recipe(),
        rotary_base=1_000_000,
        tied_embeddings=False,
        experts=Experts(count=8, per_token=2, aux_loss_coeff=0.02),
    ),
)
PRESETS = {preset.name: preset for preset in _ALL}


def find_preset(name: str) -> ModelPreset:
    """The preset of that name, or a UsageError naming the choices."""
    if name not in PRESETS:
        raise UsageError(f"--srp-preset: unknown preset {name!r}; {did_you_mean(name, list(PRESETS))}")
    return PRESETS[name]
