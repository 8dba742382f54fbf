"""Layouts, their memory and their cost: the rules against hand-made cases, the formulas against known figures."""

from dataclasses import replace
from typing import Any

import pytest

from megatron_srp.errors import UsageError
from megatron_srp.training.flags.presets import PRESETS
from megatron_srp.training.layout.flops import add_mfu, bf16_peak, flops_per_token
from megatron_srp.training.layout.layouts import Layout, check_layout, possible_tensor
from megatron_srp.training.layout.memory import GIB, H100_MEMORY, estimate_memory
from megatron_srp.training.layout.recommend import recommend, step_time
from tests.helpers.commands import srp

GPUS = [8, 16, 32, 64, 128, 256, 512, 1024]
TOO_FEW = {("32b", 8), ("70b", 8), ("70b", 16), ("30b-a3b", 8), ("8x7b", 8)}


@pytest.mark.parametrize(
    ("preset", "sizes"),
    [("135m", [1, 3]), ("360m", [1, 5]), ("1p7b", [1, 2, 4, 8, 16, 32]), ("32b", [1, 2, 4, 8])],
)
def test_tensor_parallel_sizes(preset: str, sizes: list[int]) -> None:
    # 135m: 9 divides the heads, but not the MLP of 1536.
    assert possible_tensor(PRESETS[preset]) == sizes


@pytest.mark.parametrize(
    ("preset", "sizes", "message"),
    [
        ("135m", {"gpus": 8, "tensor": 2}, r"-size 2: the 9 attention heads of 135m .*; possible: 1, 3$"),
        ("135m", {"gpus": 9, "tensor": 9}, r"-size 9: it divides the 9 .* but not its MLP, 1536 wide; possible: 1, 3$"),
        ("8b", {"gpus": 48, "tensor": 3}, r"-size 3: the 32 attention heads of 8b cannot"),
        ("360m", {"gpus": 15, "tensor": 15}, r"-size 15: it divides the 15 .* MLP, 2560 wide; possible: 1, 5$"),
        ("8b", {"gpus": 64, "pipeline": 3}, r"the 32 layers of 8b .* nearest possible: 1, 2, 4"),
        ("70b", {"gpus": 64, "tensor": 4, "pipeline": 4, "virtual": 3}, r"x 3 virtual stages: the 80 layers"),
        ("1p7b", {"gpus": 8, "virtual": 2}, r"needs --pipeline-model-parallel-size of 2 or more"),
        ("1p7b", {"gpus": 12, "tensor": 8}, r"12 GPUs are not a multiple of it; nearest possible: 16 GPUs"),
        ("1p7b", {"gpus": 24, "micro_batch": 4}, r"512 cannot be divided among DP 24; .*: 16 or 32 GPUs, or .* 480$"),
        ("1p7b", {"gpus": 7}, r"512 cannot be divided among DP 7; nearest possible: 4 or 8 GPUs, or .* 511$"),
        ("1p7b", {"gpus": 8, "micro_batch": 3}, r"64 sequences for each of DP 8, .* 3; nearest possible: 1, 2, 4$"),
        ("1p7b", {"gpus": 1024}, r"512 has fewer sequences than the 1024 data-parallel ranks: use at most 512 GPUs"),
        ("8b", {"gpus": 64, "expert": 8}, r"-parallel-size 8: 8b has no experts; leave it out$"),
        ("8x7b", {"gpus": 64, "expert": 3}, r"-size 3: the 8 experts of 8x7b cannot .*; nearest possible: 1, 2, 4$"),
        ("30b-a3b", {"gpus": 24, "expert": 16}, r"does not divide the 24 ranks of a pipeline stage; .*: 2, 4, 8$"),
        ("3b", {"gpus": 1024, "tensor": 4, "pipeline": 4, "virtual": 3}, r"a step has 9 on each rank"),
    ],
)
def test_impossible_layouts(preset: str, sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_layout(PRESETS[preset], Layout(**sizes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gpus", GPUS)
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("precision", ["bf16", "fp8-tensorwise", "fp8-blockwise"])
def test_recommendations(name: str, gpus: int, precision: str) -> None:
    preset = PRESETS[name]
    if (name, gpus) in TOO_FEW:
        with pytest.raises(UsageError, match=r"does not fit on .* GPUs of 80 GB: the smallest layout needs"):
            recommend(preset, gpus, precision)
        return
    best = recommend(preset, gpus, precision)
    check_layout(preset, best.layout)
    assert best.layout.tensor * best.layout.pipeline * best.layout.data == gpus
    assert " CP 1 " in str(best.layout)
    assert best.layout.tensor <= 8
    assert best.memory.total < H100_MEMORY
    assert best.reason


@pytest.mark.parametrize(
    ("name", "gpus", "usable"),
    [("1p7b", 7, "6 or 8"), ("8b", 48, "32 or 64"), ("70b", 9, "20"), ("1p7b", 1000, "768 or 1024")],
)
def test_gpu_counts_that_nothing_divides(name: str, gpus: int, usable: str) -> None:
    with pytest.raises(UsageError, match=f"among {gpus} GPUs; nearest usable: {usable} GPUs$"):
        recommend(PRESETS[name], gpus)
    for count in map(int, usable.split(" or ")):
        recommend(PRESETS[name], count)


def test_well_known_layouts() -> None:
    # Data parallelism alone for the paper's sizes on a few nodes; TP 4 PP 4 is NVIDIA's own for Llama 3 70B on 64 GPUs.
    for name in ("135m", "360m", "1p7b"):
        assert (recommend(PRESETS[name], 64).layout.tensor, recommend(PRESETS[name], 64).layout.pipeline) == (1, 1)
    large = recommend(PRESETS["70b"], 64).layout
    assert (large.tensor, large.pipeline) == (4, 4)


def test_experts_are_spread_over_ranks() -> None:
    preset = PRESETS["8x7b"]
    one, eight = (estimate_memory(preset, Layout(gpus=64, expert=expert)) for expert in (1, 8))
    experts = preset.num_layers * preset.num_mlps * preset.num_mlp_params
    assert one.gradients - eight.gradients == pytest.approx(4 * experts * 7 / 8)
    assert one.optimizer == pytest.approx(eight.optimizer)  # divided among all ranks either way
    times = [step_time(preset, Layout(gpus=64, expert=expert)) for expert in (1, 8)]
    assert times[0].expert == 0 < times[1].expert and times[0].data > times[1].data
    best = recommend(preset, 64).layout
    assert best.expert > 1
    flags = best.to_flags()
    assert flags[flags.index("--expert-model-parallel-size") + 1] == str(best.expert)
    assert f" EP {best.expert} " in str(best)


@pytest.mark.parametrize("gpus", [16, 32, 64, 128])
def test_many_small_experts_are_not_put_into_a_deep_pipeline(gpus: int) -> None:
    """Its last stage, with an output layer as large as ten layers, would keep the others waiting."""
    preset = PRESETS["30b-a3b"]
    best = recommend(preset, gpus).layout
    assert best.pipeline == 1 and best.expert == 8
    deep, flat = (step_time(preset, Layout(gpus=16, pipeline=stages)).compute for stages in (16, 1))
    assert deep > 2 * flat


def test_more_gpus_than_the_batch_can_use() -> None:
    assert "The GPUs mostly wait: use fewer" in recommend(PRESETS["360m"], 1024).reason
    assert "The GPUs mostly wait" not in recommend(PRESETS["1p7b"], 64).reason


def test_key_value_groups_that_a_size_neither_divides_nor_multiplies() -> None:
    odd = replace(PRESETS["8b"], num_attention_heads=24, num_query_groups=6, ffn_hidden_size=4096)
    with pytest.raises(UsageError, match=r"-size 4: it neither divides the 6 key/value groups .*: 1, 2$"):
        check_layout(odd, Layout(gpus=8, tensor=4))


def test_long_sequences_get_a_layout_without_context_parallelism() -> None:
    """Tensor parallelism and recomputation make the room: a layer's inputs only are kept, and these in parts."""
    long = PRESETS["8b"].with_batch(131_072, None)
    best = recommend(long, 64)
    assert best.layout.tensor > 1 and best.layout.recompute
    assert best.memory.fits(0.9 * H100_MEMORY)
    assert not estimate_memory(long, Layout(gpus=64, tensor=8)).fits()


def test_context_parallelism_takes_its_share_of_the_gpus() -> None:
    layout = Layout(gpus=16, tensor=2, context=2)
    assert layout.data == 4 and "--context-parallel-size" in layout.to_flags() and "CP 2 DP 4" in str(layout)
    with pytest.raises(UsageError, match="TP 2 x PP 1 x CP 3 = 6 GPUs hold one copy of the model, and 16 GPUs"):
        check_layout(PRESETS["8b"], Layout(gpus=16, tensor=2, context=3))


def test_stages_pass_one_packed_sequence_at_a_time() -> None:
    sft = PRESETS["32b"].with_batch(None, 128)
    assert recommend(sft, 64).layout.pipeline > 1 and recommend(sft, 64).layout.micro_batch > 1
    for gpus in GPUS[3:6]:
        layout = recommend(sft, gpus, packed=True).layout
        assert layout.pipeline == 1 or layout.micro_batch == 1


def test_sequences_too_long_for_any_layout() -> None:
    with pytest.raises(UsageError, match=r"needs .*; use --seq-length 262144 \(without --context-parallel-size"):
        recommend(PRESETS["8b"].with_batch(2**20, None), 64)
    recommend(PRESETS["8b"].with_batch(262_144, None), 64)
    # Where the weights are what does not fit, shorter sequences are no way out.
    with pytest.raises(UsageError, match=r"fragmentation\); use more GPUs$"):
        recommend(PRESETS["70b"], 8)


def test_memory_by_hand() -> None:
    """1.7B on one GPU, a sequence at a time: 16 bytes of states without weights, 2 of weights, for each parameter."""
    preset, layout = PRESETS["1p7b"], Layout(gpus=1)
    memory = estimate_memory(preset, layout)
    assert memory.weights == 2 * preset.num_params
    assert memory.gradients == 4 * preset.num_params
    assert memory.optimizer == 12 * preset.num_params
    # Per token and layer: 12h of norms and their outputs become 8h + 2(2h + 2h) + 4f + 2f with as many kv heads.
    assert memory.activations == 24 * 2048 * (8 * 2048 + 2 * (4 * 2048) + 6 * 8192)
    assert memory.logits == 2048 * (8 * 49_152 + 4 * 2048)
    assert memory.total > sum(vars(memory).values())


def test_memory_follows_the_layout() -> None:
    preset = PRESETS["8b"]
    one = estimate_memory(preset, Layout(gpus=64))
    two = estimate_memory(preset, Layout(gpus=64, tensor=2))
    recomputed = estimate_memory(preset, Layout(gpus=64, recompute=True))
    assert two.activations == one.activations / 2
    assert recomputed.activations < one.activations / 5
    assert estimate_memory(preset, Layout(gpus=8)).optimizer == 8 * one.optimizer
    # Gathered in FP8 the weights take no more than in bf16; blockwise keeps both.
    assert estimate_memory(preset, Layout(gpus=64), "fp8-tensorwise").weights == one.weights
    assert estimate_memory(preset, Layout(gpus=64), "fp8-blockwise").weights > 1.8 * one.weights


def test_in_flight_micro_batches_fill_the_first_stage() -> None:
    preset = PRESETS["70b"]
    plain = estimate_memory(preset, Layout(gpus=64, tensor=4, pipeline=4))
    interleaved = estimate_memory(preset, Layout(gpus=64, tensor=4, pipeline=4, virtual=2))
    assert interleaved.activations / plain.activations == pytest.approx(1 + 3 / (4 * 2))


def test_step_time_of_a_pipeline_falls_with_virtual_stages() -> None:
    preset = PRESETS["70b"]
    plain = step_time(preset, Layout(gpus=512, tensor=4, pipeline=8))
    virtual = step_time(preset, Layout(gpus=512, tensor=4, pipeline=8, virtual=2))
    assert virtual.pipeline < plain.pipeline
    assert virtual.compute == plain.compute


def test_flops_of_the_paper_s_model() -> None:
    assert flops_per_token(PRESETS["1p7b"]) == pytest.approx(10.9e9, rel=0.005)
    attention = flops_per_token(PRESETS["1p7b"], 4096) - flops_per_token(PRESETS["1p7b"], 2048)
    assert attention == 6 * 24 * 2048 * 2048


def test_mfu_in_megatrons_line() -> None:
    line = " iteration 1/2 | throughput per GPU (TFLOP/s/GPU): 445.2 | learning rate: 1 |"
    peak = bf16_peak("NVIDIA H100 80GB HBM3")
    assert peak == 989.4e12
    assert "(TFLOP/s/GPU): 445.2 | MFU (of bf16 peak): 45.0% | learning rate: 1 |" in add_mfu(line, peak)
    assert add_mfu("training ...", peak) == "training ..."
    assert bf16_peak("NVIDIA H100 PCIe") == 756e12
    assert bf16_peak("NVIDIA GeForce GTX 970") is None


def test_presets_command() -> None:
    done = srp("presets", "1p7b", "--gpus", "64")
    assert done.returncode == 0, done.stderr
    assert "1,711,376,384 parameters" in done.stdout
    assert "10.9 GFLOP per token" in done.stdout
    assert "--tensor-model-parallel-size 1\n" in done.stdout
    assert f"GiB of {H100_MEMORY // GIB}" in done.stdout
    assert "\n# CP 1: 8 x 2,048 tokens fit with " in done.stdout
    done = srp("presets", "1p7b", "--gpus", "64", "--seq-length", "65536")
    assert done.returncode == 0, done.stderr
    assert "in sequences of 65536" in done.stdout
    assert "\n--max-position-embeddings 65536\n" in done.stdout and "\n--seq-length 65536" in done.stdout
    done = srp("presets", "8x7b", "--gpus", "64")
    assert "46,702,792,704 parameters, 12,879,925,248 of them active for a token (2 of 8 experts)" in done.stdout
    done = srp("presets", "1p8b")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean '1p7b'?" in done.stderr
