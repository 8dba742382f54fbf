"""A whole experiment in small, killed on the way; and the flags of presets that need a GPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_srp.medsafetyworld.experiment.graph import Experiment
from megatron_srp.medsafetyworld.experiment.presets import PRESETS
from megatron_srp.medsafetyworld.experiment.variants import parse_settings
from tests.helpers.commands import SRP

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
pytestmark = pytest.mark.exhaustive


def command(out, stages):
    flags = ["--preset", "nano", "--settings", "srp,post-only", "--stages", stages, "--seeds", "1", "--jobs", "2"]
    return [*SRP, "world", "run", *flags, out]


def wait_for(path, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not list(path.parent.glob(path.name)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)


def test_a_run_that_is_killed_goes_on_to_its_report(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(out, "sft"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    wait_for(out / "seed0" / "srp" / "pretrained" / "checkpoints" / "latest*", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command(out, "sft"), env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "seed0/tokenizer " not in done.stderr  # done before
    report = json.loads((out / "report.json").read_text())
    assert [(row["setting"], row["stage"]) for row in report["summary"]] == [
        *(("post-only", "pretrained"), ("srp", "pretrained")),
        *(("post-only", "sft"), ("srp", "sft")),
    ]
    assert report["commands"][0].startswith("srp world run --preset nano")

    more = subprocess.run(command(out, "adversarial"), env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert more.returncode == 0, more.stderr
    ended = re.findall(r"\] (\S+) ", more.stderr)
    assert sorted(ended) == sorted(
        [f"seed0/{s}/adversarial/{step}" for s in ("srp", "post-only") for step in ("train", "measure")] + ["report"]
    )


def test_policies_that_write_tokens_of_their_own(tmp_path):
    flags = ["--preset", "nano", "--settings", "hide,srp-special", "--stages", "sft", "--seeds", "1", "--limit", "2"]
    out = tmp_path / "out"
    done = subprocess.run([*SRP, "world", "run", *flags, out], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert {row["policy"]: row["ids"] is not None for row in report["policies"]} == {"hide": False, "srp-special": True}


@pytest.mark.parametrize("preset", ["small", "paper"])
@pytest.mark.parametrize("name", ["pretrained", "benign-mix-sft"])
def test_flags_of_a_training_on_a_gpu_are_valid(preset, name, tmp_path):
    """Megatron's own parser takes them, without a GPU; data are a nano world's."""
    out = tmp_path / "out"
    nano = Experiment(PRESETS["nano"], tuple(parse_settings("srp")), ("sft", "benign-mix-sft"), (0,))
    steps = Experiment(PRESETS[preset], nano.variants, nano.stages, nano.seeds).steps()
    out.mkdir()
    for step in nano.steps():
        if step.name in ("seed0/tokenizer", "seed0/srp/world", "seed0/srp/shard", "seed0/srp/chats"):
            for result in step.results:
                (out / result).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, *step.command], cwd=out, check=True, capture_output=True)
    training = next(step for step in steps if step.name == f"seed0/srp/{name}/train")
    flags = list(training.command[training.command.index("--") + 1 :])
    flags += ["--srp-dry-run", "1", "--save-interval", "5", "--vocab-size", "1024"] + (
        ["--train-iters", "10", "--lr-wsd-decay-iters", "5"] * (name == "pretrained")
    )
    done = subprocess.run([*SRP, "train", *flags], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0 and "every flag is valid" in done.stdout, done.stdout[-500:] + done.stderr[-2000:]
