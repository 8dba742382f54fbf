"""Presets: the sizes are those of the published models, and the schedule follows the run's length."""

import pytest

from megatron_srp.errors import UsageError
from megatron_srp.training.flags.presets import PRESETS, find_preset
from megatron_srp.training.plan import expand_flags


def value_of(flags: list[str], flag: str) -> str:
    """The value that argparse would take: the last one."""
    return flags[len(flags) - 1 - flags[::-1].index(flag) + 1]


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("135m", 134_515_008),
        ("360m", 361_821_120),
        ("1p7b", 1_711_376_384),
        ("7b-a1b", 6_919_161_856 - 65_536),  # without OLMoE's norms of all queries and keys of a token
        ("30b-a3b", 30_532_122_624),
        ("8x7b", 46_702_792_704),
    ],
)
def test_sizes_are_the_published_ones(name: str, num_params: int) -> None:
    preset = find_preset(name)
    assert preset.num_params == num_params
    assert preset.source_url.startswith("https://")


@pytest.mark.parametrize(("name", "billions"), [("7b-a1b", 1.3), ("30b-a3b", 3.3), ("8x7b", 12.9), ("8b", 8.0)])
def test_parameters_that_a_token_passes_through(name: str, billions: float) -> None:
    """As the model cards of the published models round them."""
    assert find_preset(name).num_active_params / 1e9 == pytest.approx(billions, abs=0.06)


def test_debug_has_about_a_million_parameters() -> None:
    assert 0.9e6 < find_preset("debug").num_non_embedding_params < 1.1e6


@pytest.mark.parametrize("name", PRESETS)
def test_flags_are_complete_and_unique(name: str) -> None:
    preset = find_preset(name)
    flags = preset.to_flags()
    names = [flag for flag in flags if flag.startswith("--")]
    assert len(names) == len(set(names))
    assert all(isinstance(flag, str) for flag in flags)
    assert value_of(flags, "--num-layers") == str(preset.num_layers)
    assert ("--group-query-attention" in flags) == (preset.num_query_groups < preset.num_attention_heads)
    # The paper's schedule; Megatron's default decay is exponential.
    assert value_of(flags, "--lr-decay-style") == "WSD"
    assert value_of(flags, "--lr-wsd-decay-style") == "linear"
    # Megatron's fused loss rounds its gradient to bf16.
    assert ("--cross-entropy-loss-fusion" in flags) == ("--bf16" in flags)


def test_the_paper_trains_on_100_billion_tokens() -> None:
    recipe = find_preset("1p7b").recipe
    assert recipe.global_batch_size is not None
    tokens = recipe.train_iters * recipe.global_batch_size * recipe.seq_length
    assert tokens == pytest.approx(100e9, rel=1e-4)


@pytest.mark.parametrize(
    ("argv", "flag", "value"),
    [
        (["--srp-preset", "135m"], "--lr-wsd-decay-iters", "19073"),
        (["--srp-preset", "135m", "--train-iters", "1000"], "--lr-wsd-decay-iters", "200"),
        (["--srp-preset", "135m", "--train-iters=1000"], "--lr-wsd-decay-iters", "200"),
        (["--srp-preset", "135m", "--train-samples", "5000"], "--lr-wsd-decay-samples", "1000"),
        (["--srp-preset", "debug", "--train-iters", "2"], "--lr-wsd-decay-iters", "1"),
    ],
)
def test_the_last_fifth_of_any_run_decays(argv: list[str], flag: str, value: str) -> None:
    assert value_of(expand_flags(argv), flag) == value


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match=r"unknown preset 'debgu'.*135m.*did you mean 'debug'\?"):
        find_preset("debgu")
