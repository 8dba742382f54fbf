"""A run planned from its command line: made once, without torch, and never changed after."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_srp.errors import UsageError
from megatron_srp.training.flags import defaults
from megatron_srp.training.plan import expand_flags, plan_run
from tests.helpers.sft_shards import of_lengths, write_sft_shard

MOCK = ["--srp-preset", "135m", "--mock-data", "--tokenizer-type", "NullTokenizer", "--vocab-size", "99"]


def value_of(flags: tuple[str, ...], flag: str) -> str:
    """What Megatron's parser would take: the last one counts."""
    return flags[len(flags) - flags[::-1].index(flag)]


def test_a_plan_has_everything_that_the_rest_asks_for() -> None:
    plan = plan_run([*MOCK, "--pipeline-model-parallel-size", "2", "--lr", "1", "--eod-mask-loss"], gpus=4)
    assert (plan.layout.gpus, plan.layout.pipeline, plan.model and plan.model.num_layers) == (4, 2, 30)
    assert (plan.args.seq_length, value_of(plan.flags, "--lr"), plan.flags.count("--lr")) == (2048, "1", 1)
    assert [note.partition(":")[0] for note in plan.notes] == ["--eod-mask-loss"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.flags = ()  # type: ignore[misc]


def test_defaults_for_this_machine_give_way_to_the_users_flags() -> None:
    plan = plan_run([*MOCK, "--ckpt-step", "7"], gpus=1)
    more = plan.with_defaults(["--ckpt-step", "5", "--transformer-impl", "local"])
    assert (more.args.ckpt_step, more.args.transformer_impl) == (7, "local")
    assert (plan.args.transformer_impl, more.notes, more.layout) == (None, plan.notes, plan.layout)


def test_a_dry_run_has_its_own_number_of_gpus() -> None:
    assert plan_run([*MOCK, "--srp-dry-run", "16"], gpus=1).layout.gpus == 16
    with pytest.raises(UsageError, match="--srp-dry-run 0: pass the number of GPUs"):
        plan_run([*MOCK, "--srp-dry-run", "0"], gpus=1)


def test_help_is_asked_for_with_any_other_mistake() -> None:
    plan = plan_run(["--help", "--data-path", "nowhere"], gpus=1)
    assert plan.args.help and plan.flags == ("--help", "--data-path", "nowhere")


def test_a_preset_is_expanded_once_for_conversations_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length of the run is known when they are packed, and with it the phase in which the learning rate decays."""
    prefix, asked = write_sft_shard(tmp_path / "a", of_lengths([900] * 80)), []
    recommend = defaults.recommend
    monkeypatch.setattr(defaults, "recommend", lambda *given: asked.append(given) or recommend(*given))
    argv = ["--srp-preset", "135m", "--srp-layout", "auto", "--srp-sft", prefix, "--srp-sft-epochs", "5"]
    flags = expand_flags([*argv, "--global-batch-size", "8"], gpus=8)
    assert len(asked) == 1
    # Two conversations fit into a sequence of 2,048, in each of five epochs.
    assert value_of(tuple(flags), "--train-iters") == "25" and flags.count("--train-iters") == 1
    assert value_of(tuple(flags), "--lr-wsd-decay-iters") == "5"


def test_a_plan_needs_no_torch() -> None:
    code = f"""
import sys
from megatron_srp.training.plan import plan_run
plan_run({[*MOCK, "--srp-precision", "fp8-tensorwise", "--srp-layout", "auto"]!r}, gpus=8)
assert not {{"torch", "megatron"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
