"""Megatron-LM's own scripts, unchanged: sidecars and reflected shards give the same losses, GPTModel and HybridModel give
the same losses, and a killed run resumes. `make test-hosts` leaves the losses and the logs in out/hosts."""

import re
from pathlib import Path

import pytest

from tests.distributed.jobs import Forkserver, Run

MODULE = "megatron_srp.run"
FLAGS = ["--srp-preset", "debug", "--seq-length", "128", "--micro-batch-size", "2", "--global-batch-size", "4"]
FLAGS += ["--save-interval", "3", "--log-interval", "1"]
HYBRID = ["--hybrid-layer-pattern", "*-*-*-*-"]
HYBRID += ["--spec", "megatron.core.models.hybrid.hybrid_layer_specs", "hybrid_stack_spec"]
SCRIPTS = {"pretrain_gpt.py": [], "pretrain_hybrid.py": HYBRID}
# Of a log, what shows the script, the data and the steps.
KEPT = re.compile(
    r"note:|data:| +\d+%|start:|> Megatron-Core version|> building train|training \.\.\.|.*iteration +\d+/|.*saved check"
)
LAYOUTS = {
    "TP 2": ["--tensor-model-parallel-size", "2", "--sequence-parallel"],
    "PP 2": ["--pipeline-model-parallel-size", "2"],
}


def flags_of(script: str, layout: str) -> list[str]:
    """HybridModel's stages are written into its pattern."""
    more = [part.replace("*-*-*-*-", "*-*-|*-*-") if layout == "PP 2" else part for part in SCRIPTS[script]]
    return [*FLAGS, *LAYOUTS[layout], *more]


def train(
    server: Forkserver, script: Path, argv: list[str], folder: Path, steps: int, log: Path | None = None
) -> dict[int, float]:
    """The losses of a run, whose log is kept in `log`."""
    run = Run(folder)
    finished = server.run(2, [str(script), *argv, "--train-iters", str(steps), *run.flags], MODULE)
    assert finished.codes == [0, 0], finished.log
    if log:
        log.write_text(_shorten(finished.log))
    return run.losses()


def _shorten(log: str) -> str:
    """The lines to keep, without the folders of this machine."""
    kept = "\n".join(line for line in log.splitlines() if KEPT.match(line)) + "\n"
    return re.sub(r"/\S+/(?=\S)", "", kept)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses(layout: str, checkout, server, data, report, logs, tmp_path) -> None:
    """Of GPTModel and of HybridModel, side by side."""
    expected: dict[str, dict[int, float]] = {}
    for kind in ("sidecar", "reflected", *(["plain"] if layout == "TP 2" else [])):
        losses = {}
        for script in SCRIPTS:
            argv = [*flags_of(script, layout), *data[kind]]
            log = logs / f"{script}.log" if (layout, kind) == ("TP 2", "sidecar") else None
            losses[script] = train(server, checkout / script, argv, tmp_path / kind / script, 5, log)
            shown = " ".join(f"{loss:.6f}" for loss in losses[script].values())
            report.append(f"| `{script}` | {layout} | {kind} | {shown} |")
        assert len(losses["pretrain_gpt.py"]) == 5
        assert losses["pretrain_gpt.py"] == losses["pretrain_hybrid.py"]
        expected = expected or losses  # of the sidecars, which come first
        assert (losses == expected) == (kind != "plain")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_killed_run_resumes(script: str, checkout, server, data, report, tmp_path) -> None:
    argv = [*flags_of(script, "TP 2"), *data["sidecar"]]
    expected = train(server, checkout / script, argv, tmp_path / "whole", 6)
    run = Run(tmp_path / "killed")
    flags = [str(checkout / script), *argv, "--train-iters", "6", *run.flags]
    tracker = run.folder / "checkpoints" / "latest_checkpointed_iteration.txt"
    killed = server.run_and_kill(2, flags, tracker.is_file, MODULE)
    assert killed.codes == [-9, -9], killed.log
    resumed = server.run(2, [*flags, "--load", str(run.folder / "checkpoints")], MODULE)
    assert resumed.codes == [0, 0], resumed.log
    assert {step: loss for step, loss in run.losses().items() if step > 3} == {
        step: loss for step, loss in expected.items() if step > 3
    }
    report.append(f"| `{script}` | TP 2, killed after step 3 and resumed | sidecar | as above to the last digit |")
