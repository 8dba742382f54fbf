"""What an evaluation says in a log, and what it and an experiment show on a terminal."""

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

from megatron_srp.evaluation import progress
from megatron_srp.evaluation.progress import Progress


def test_a_log_has_counts_and_how_far_a_search_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 0.0)
    with Progress() as shown:
        shown.step("gcg (unguarded)", 4)
        shown.note("step 120, loss 2.310")
        shown.advance()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "gcg (unguarded): 0 of 4, step 120, loss 2.310"
    assert second.startswith("gcg (unguarded): 1 of 4, ")


def test_slow_work_has_its_seconds():
    assert [progress.speed_of(*done) for done in ((25, 2.0), (2, 80.0), (0, 5.0))] == ["12.5/s", "40.0 s each", "0.0/s"]


def test_a_log_is_not_filled_with_steps(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 1e9)
    with Progress() as shown:
        shown.step("gcg (unguarded)", 4)
        for step in range(1000):
            shown.note(f"step {step}")
    assert not capsys.readouterr().err


def on_a_terminal(program):
    """What a Python program shows on a terminal, without the codes that move the cursor."""
    terminal, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "-c", program], stdin=end, stdout=end, stderr=end, env=environment) as job:
        os.close(end)
        shown = b""
        with suppress(OSError):  # the other end is closed
            while block := os.read(terminal, 1 << 16):
                shown += block
    os.close(terminal)
    assert job.returncode == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_bar_on_a_terminal_shows_the_last_step_and_lines_stay():
    shown = on_a_terminal(
        "from megatron_srp.evaluation.progress import Progress\n"
        "with Progress() as shown:\n"
        "    shown.step('prefill', 2)\n"
        "    shown.advance(2)\n"
        "    shown.say('prefill: done')\n"
        "    shown.step('gcg', 4)\n"
        "    shown.advance()\n"
        "    shown.note('step 120, loss 2.310')\n"
    )
    assert "prefill: done" in shown
    assert re.search(r"gcg .*1/4 .*(/s|s each) step 120, loss 2.310", shown), shown


def test_a_bar_on_a_terminal_over_the_steps_of_an_experiment():
    shown = on_a_terminal(
        "from pathlib import Path\n"
        "from types import SimpleNamespace\n"
        "from megatron_srp.medsafetyworld.experiment.progress import StepProgress\n"
        "steps = [SimpleNamespace(name='shards', seconds=30), SimpleNamespace(name='train', seconds=90)]\n"
        "progress = StepProgress(steps)\n"
        "progress.ended(steps[0], 31.0, False)\n"
        "progress.started(steps[1], Path('/nonexistent'))\n"
        "progress.tick()\n"
        "progress.close()\n"
    )
    assert "[1/2] shards  31 s" in shown
    assert re.search(r"25% 1/2 steps, .* left train", shown), shown
